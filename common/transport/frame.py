"""Frames: how an embedding is cut, sealed and checked. The format is `FrameHeader` in proto/embedding.proto."""

from __future__ import annotations

import xxhash

from common.embeddings import EmbeddingLayout
from common.pb import embedding_pb2 as pb
from common.rpc import PROTOCOL_VERSION

MAX_PAYLOAD_BYTES = 8 << 20


def seal(*, grant_id: bytes, layout: EmbeddingLayout, tensor: str, offset: int, payload: memoryview) -> pb.SealedHeader:
    """The header of the frame that carries `payload`, bytes `offset` and on of `tensor`, with its checksum."""
    header = pb.FrameHeader(
        protocol=PROTOCOL_VERSION,
        grant_id=grant_id,
        tensor=tensor,
        dtype=layout.dtype,
        shape=(layout.rows, layout.hidden),
        offset=offset,
        length=len(payload),
    ).SerializeToString()
    return pb.SealedHeader(header=header, checksum=checksum(header, payload))


def checksum(header: bytes, payload: memoryview) -> int:
    """XXH3-64 over the serialized FrameHeader and then the payload."""
    digest = xxhash.xxh3_64(header)
    digest.update(payload)
    return digest.intdigest()
