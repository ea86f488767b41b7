"""Downloads, against a hub on loopback that speaks as much of the real one's HTTP as a download needs."""

import hashlib
import json
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.fingerprint import model_fingerprint
from common.hub import ModelNotFoundError, resolve_model
from common.models.roles import Role

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors_file(tensors: dict[str, bytes]) -> bytes:
    """A file of the format, https://github.com/huggingface/safetensors#format."""
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def checkpoint(*, seed: int = 0, sharded: bool = True) -> dict[str, bytes]:
    """Two shards of language weights and one of the vision tower."""
    shards = {
        f"model-0000{i}-of-00003.safetensors": {name: bytes((j * 7 + i + seed) % 256 for j in range(40_000 + i))}
        for i, name in enumerate(("model.language_model.a", "model.visual.b", "lm_head.weight"), start=1)
    }
    files = {"config.json": b'{"architectures": ["X"]}', "tokenizer.json": b"{}", "preprocessor_config.json": b"{}"}
    if not sharded:
        return files | {
            "model.safetensors": safetensors_file({k: v for shard in shards.values() for k, v in shard.items()})
        }
    weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return files | {name: safetensors_file(tensors) for name, tensors in shards.items()}


class Hub(ThreadingHTTPServer):
    """Serves `models` ("org/name" to files); `ranges` and `files` count what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.files: Counter[str] = Counter()
        self.ranges: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        """From then on connections are refused."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        org, name, resolve, revision, *path = self.path.strip("/").split("/")
        assert resolve == "resolve"
        model, file = f"{org}/{name}", "/".join(path)
        if model in self.server.gated:
            self.reply(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif model not in self.server.models:
            self.reply(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"})
        elif revision not in ("main", COMMIT):
            self.reply(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
        elif file not in self.server.models[model]:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.send_file(file, self.server.models[model][file], with_body)

    def send_file(self, name: str, content: bytes, with_body: bool) -> None:
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        if asked and with_body:
            first, last = (int(part or len(content) - 1) for part in asked.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            if part != content:
                self.server.ranges[name] += 1
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self.reply(206, headers, part)
        else:
            self.server.files[name] += with_body
            self.reply(200, headers, content, with_body)

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"", with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if HF_HUB_OFFLINE, which is read when the library is imported, were not set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def directory_of(files: dict[str, bytes], path: Path) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize(("role", "shards"), [("vision", ["2"]), ("language", ["1", "3"])])
def test_a_role_downloads_only_its_shards_and_knows_the_whole_model(
    hub: Hub, cache: Path, tmp_path: Path, role: Role, shards: list[str]
) -> None:
    hub.models["org/model"] = checkpoint()
    lines: list[str] = []
    files = resolve_model("org/model", None, role, lines.append, endpoint=hub.url, cache_dir=cache)
    here = sorted(path.name for path in files.directory.glob("*.safetensors"))
    assert here == [f"model-0000{i}-of-00003.safetensors" for i in shards]
    assert (files.directory / "tokenizer.json").is_file()
    # The same model in a directory, whole: same fingerprint.
    assert files.fingerprint() == model_fingerprint(directory_of(checkpoint(), tmp_path / "whole"))
    assert any(f"{len(shards)} of 3 shards" in line for line in lines)


def test_both_roles_agree_and_a_fine_tune_differs(hub: Hub, cache: Path) -> None:
    hub.models |= {"org/model": checkpoint(), "org/tuned": checkpoint(seed=1)}

    def fingerprint(model: str, vision: bool) -> bytes:
        role: Role = "vision" if vision else "language"
        return resolve_model(model, None, role, endpoint=hub.url, cache_dir=cache / str(vision)).fingerprint()

    assert fingerprint("org/model", True) == fingerprint("org/model", False)
    assert fingerprint("org/tuned", True) == fingerprint("org/tuned", False)
    assert fingerprint("org/model", True) != fingerprint("org/tuned", True)


def test_a_single_file_is_everybodys(hub: Hub, cache: Path, tmp_path: Path) -> None:
    hub.models["org/model"] = checkpoint(sharded=False)
    files = resolve_model("org/model", None, "vision", endpoint=hub.url, cache_dir=cache)
    assert files.fingerprint() == model_fingerprint(directory_of(checkpoint(sharded=False), tmp_path / "whole"))


def test_the_second_start_needs_no_hub(hub: Hub, cache: Path) -> None:
    hub.models["org/model"] = checkpoint()
    first = resolve_model("org/model", None, "vision", endpoint=hub.url, cache_dir=cache)
    asked = hub.files.total(), hub.ranges.total()
    resolve_model("org/model", None, "vision", endpoint=hub.url, cache_dir=cache)
    assert (hub.files.total(), hub.ranges.total()) == asked
    hub.stop()
    again = resolve_model("org/model", None, "vision", endpoint=hub.url, cache_dir=cache)
    assert again.directory == first.directory
    assert again.fingerprint() == first.fingerprint()


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("org/nothing", None, "neither a directory here nor a model on the hub"),
        ("org/gated", None, "is gated: accept its terms"),
        ("org/model", "v9", "no revision 'v9'"),
        ("org/empty", None, "not a checkpoint of this family"),
        ("./models/typo", None, "neither a directory nor a hub id"),
        ("/no/such/directory", None, "neither a directory nor a hub id"),
    ],
)
def test_what_can_not_be_had_is_said_plainly(
    hub: Hub, cache: Path, model: str, revision: str | None, message: str
) -> None:
    hub.models |= {"org/model": checkpoint(), "org/empty": {"README.md": b""}}
    hub.gated.add("org/gated")
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_model(model, revision, "vision", endpoint=hub.url, cache_dir=cache)


def test_no_hub_and_nothing_in_the_cache(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="the hub can't be reached"):
        resolve_model("org/model", None, "vision", endpoint=hub.url, cache_dir=cache)


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = directory_of(checkpoint(), tmp_path / "model")
    files = resolve_model(str(directory), None, "vision")
    assert files.directory == directory
    assert files.fingerprint() == model_fingerprint(directory)
    with pytest.raises(ValueError, match="--revision v1 makes no sense"):
        resolve_model(str(directory), "v1", "vision")
    with pytest.raises(ModelNotFoundError, match="has no config"):
        resolve_model(str(tmp_path), None, "vision")
