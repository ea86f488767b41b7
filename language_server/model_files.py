"""What a router has to know of a checkpoint to talk to the model: its name, and files on their way to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.fingerprint import ROUTER_FILES
from common.pb import language_pb2 as pb
from common.rpc import CHUNK_BYTES


def model_name(model: str | Path) -> str:
    """The base name of a directory, also of ".", or of a hub id. For "NAME/model" it is NAME, which says more."""
    path = Path(model).absolute()
    return path.parent.name if path.name == "model" else path.name


def stream_model_files(model_dir: Path) -> Iterator[pb.FileChunk]:
    """Those of `ROUTER_FILES` that the checkpoint has, one after another, each in chunks of 1 MiB at most."""
    for name in ROUTER_FILES:
        path = model_dir / name
        if path.is_file():
            content = path.read_bytes()
            for start in range(0, max(1, len(content)), CHUNK_BYTES):
                end = start + CHUNK_BYTES
                yield pb.FileChunk(name=name, data=content[start:end], last=end >= len(content))
