"""Downloads, from a hub on loopback."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.fingerprint import model_fingerprint
from common.hub import ModelNotFoundError, resolve_model
from common.models.roles import Role
from tests.hub import Hub


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


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


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
