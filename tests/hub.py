"""A hub that speaks as much of the real one's HTTP as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors.torch import load_file, save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_two_shards(model: Path) -> dict[str, bytes]:
    """The files of a checkpoint that has its weights in one, with those of each role in a file of their own."""
    files = {file.name: file.read_bytes() for file in model.iterdir() if file.suffix != ".safetensors"}
    weight_map: dict[str, str] = {}
    tensors = load_file(model / "model.safetensors")
    for i, is_visual in enumerate((True, False), start=1):
        shard = f"model-0000{i}-of-00002.safetensors"
        own = {name: tensor for name, tensor in tensors.items() if (".visual." in name) == is_visual}
        files[shard] = save(own, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, shard)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


class Hub(ThreadingHTTPServer):
    """Serves `models` ("org/name" to files); `ranges` and `files` count what was asked for."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.files: Counter[str] = Counter()
        self.ranges: Counter[str] = Counter()
        self.url = f"http://{host}:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From then on connections are refused. Once more does nothing."""
        if not self.thread.is_alive():
            return
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
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
        parts = self.path.strip("/").split("/")
        if parts[2:3] != ["resolve"]:  # whatever else clients ask hubs for
            self.reply(404, {})
            return
        org, name, _, revision, *path = parts
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
