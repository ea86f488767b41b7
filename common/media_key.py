"""The identity of a media item: equal keys mean equal embeddings, up to batch numerics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from common.pb import common_pb2 as pb

# Raised whenever decoding or preprocessing changes what comes out: keys of different versions never meet.
PROCESSOR_VERSION = 1

MediaKey = bytes  # 32 bytes


def media_digest(parts: Sequence[bytes | memoryview]) -> bytes:
    """SHA-256 over the media: one part for a file, one a frame for a list of frames. Lengths are part of it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def media_key(
    *,
    salt: bytes,
    digest: bytes,
    kind: pb.MediaKind,
    options: pb.MediaOptions,
    fingerprint: bytes,
    dtype: pb.DType,
    processor_version: int = PROCESSOR_VERSION,
) -> MediaKey:
    """SHA-256 over everything that decides an embedding.

    Args:
        salt: of the tenant; items of different tenants never share a key.
        digest: `media_digest` of the media bytes.
        kind: an image file, a video file, or a list of frames.
        options: overrides of the resize and sampling rules.
        fingerprint: of the model (32 bytes), see `common.fingerprint`.
        dtype: that the embedding is made and sent in.
        processor_version: of decoding and preprocessing.
    """
    key = hashlib.sha256(b"epd media key 1")
    for part in (
        salt,
        digest,
        fingerprint,
        str((int(kind), int(dtype), processor_version)).encode(),
        options.SerializeToString(deterministic=True),
    ):
        key.update(len(part).to_bytes(8, "little"))
        key.update(part)
    return key.digest()


def tenant_salt(api_key: str | None) -> bytes:
    """Separates the caches of the holders of different API keys; empty where no key is in use."""
    return hashlib.sha256(b"epd tenant 1" + api_key.encode()).digest() if api_key else b""
