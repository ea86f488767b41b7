"""Embeddings that are made up from the media key: what a fake encode server sends and a fake language server expects.

A tensor is the first 65532 bytes of SHAKE-256 over the key and the tensor's name, again and again. That length is no
multiple of a frame's or a row's, so that whatever lands in the wrong place shows. In each byte bit 6 is cleared: it is
the highest bit of the exponent in bfloat16 and float32 alike, so every value is finite and under 2.
"""

from __future__ import annotations

import hashlib

from common.embeddings import EmbeddingLayout
from common.media_key import MediaKey
from common.pb import common_pb2

_PERIOD = 65532
_FINITE = bytes(byte & 0xBF for byte in range(256))


def embedding_dtype(option: str, checkpoint: str) -> common_pb2.DType:
    """What a fake's `--dtype` means for a checkpoint that was made in dtype `checkpoint`.

    Raises:
        ValueError: "auto", and the wire does not carry the checkpoint's own dtype.
    """
    known: dict[str, common_pb2.DType] = {"bfloat16": common_pb2.BFLOAT16, "float32": common_pb2.FLOAT32}
    name = checkpoint if option == "auto" else option
    if name not in known:
        raise ValueError(f"embeddings are sent in {' or '.join(known)}, not in {name}; --dtype says which")
    return known[name]


def fake_embedding(key: MediaKey, layout: EmbeddingLayout) -> bytes:
    """`layout.total_bytes` bytes: main, then the deepstack levels."""
    return b"".join(_tensor(key, tensor, layout.tensor_bytes) for tensor in layout.tensors)


def _tensor(key: MediaKey, tensor: str, size: int) -> bytes:
    pattern = hashlib.shake_256(b"epd fake embedding 1" + key + tensor.encode()).digest(_PERIOD).translate(_FINITE)
    return (pattern * -(-size // _PERIOD))[:size]
