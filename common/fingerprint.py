"""The identity of a checkpoint, computed alike by servers that load disjoint parts of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

# Everything but weights that changes what the model says.
CONFIG_FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# What the router needs to talk to the model; sent by GetModelFiles.
ROUTER_FILES = (
    *CONFIG_FILES,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)

_SAMPLE_BYTES = 4096
_SAMPLES = 64


def shard_names(model_dir: Path) -> list[str]:
    """The checkpoint's safetensors files, by its index if it has one; empty for a directory without weights."""
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return sorted(path.name for path in model_dir.glob("*.safetensors"))


def shard_digest(path: Path) -> bytes:
    """`sampled_digest` of a safetensors file on this machine."""
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        return sampled_digest(read, path.stat().st_size, path.name)


def sampled_digest(read: Callable[[int, int], bytes], size: int, name: str) -> bytes:
    """SHA-256 over a safetensors file's header (8-byte length, then JSON) and evenly spaced samples of its data.

    The samples are what tells a fine-tune from its base: their headers are the same. 64 samples of 4 KiB are read,
    the first at the start of the data and the last at its end.

    Args:
        read: (offset, length) to the file's bytes there, fewer only at its end.
        size: of the file in bytes.
        name: of the file, for the error.

    Raises:
        ValueError: it is not a safetensors file.
    """
    length = read(0, 8)
    header = int.from_bytes(length, "little")
    if len(length) != 8 or header > size - 8:
        raise ValueError(f"{name} is not a safetensors file: its header length is out of range")
    digest = hashlib.sha256(length + read(8, header))
    start, span = 8 + header, max(0, size - 8 - header - _SAMPLE_BYTES)
    for i in range(_SAMPLES):
        digest.update(read(start + span * i // (_SAMPLES - 1), _SAMPLE_BYTES))
    return digest.digest()


def model_fingerprint(model_dir: Path, shards: dict[str, bytes] | None = None) -> bytes:
    """SHA-256 over config, processor configs and every shard, 32 bytes.

    Args:
        model_dir: the checkpoint.
        shards: digests of shards that are not on this machine (a server downloads only its role's), by name.

    Raises:
        FileNotFoundError: no config.json, or a shard of the index is neither here nor in `shards`.
    """
    fingerprint = hashlib.sha256(b"epd model 1")
    for name in CONFIG_FILES:
        path = model_dir / name
        content = path.read_bytes() if name == "config.json" or path.is_file() else b""
        fingerprint.update(len(content).to_bytes(8, "little") + content)
    for name in shard_names(model_dir):
        digest = (shards or {}).get(name) or shard_digest(model_dir / name)
        fingerprint.update(name.encode() + digest)
    return fingerprint.digest()
