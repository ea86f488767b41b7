"""Frames: how an embedding is cut, sealed and checked. The format is `FrameHeader` in proto/embedding.proto."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import xxhash

from common.embeddings import EmbeddingLayout
from common.pb import embedding_pb2 as pb
from common.rpc import PROTOCOL_VERSION
from common.transport.base import Outgoing

MAX_PAYLOAD_BYTES = 8 << 20
# Small enough that the few frames which are under way to a server don't hold up another item for long (four of them
# take 67 ms at 1 Gbit/s), large enough that the work per frame doesn't show.
FRAME_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sealed header and the bytes that follow it; `payload` is a view of the item's own memory."""

    sealed: pb.SealedHeader
    payload: memoryview


# Cuts an item into frames, each one as soon as its bytes are complete.
Framer = Callable[[pb.Grant, Outgoing], AsyncGenerator[Frame, None]]


async def cut(grant: pb.Grant, item: Outgoing, limit: int = FRAME_BYTES) -> AsyncGenerator[Frame, None]:
    """The frames of `item` under `grant`, of at most `limit` bytes of payload, in the order that it is made in.

    Raises:
        EPDError: the item will never be complete.
    """
    assert 0 < limit <= MAX_PAYLOAD_BYTES
    layout, data = item.layout, item.data
    for tensor in item.order:
        await item.wait(tensor)
        start = layout.offset(tensor)
        for offset in range(0, layout.tensor_bytes, limit):
            payload = data[start + offset : start + min(offset + limit, layout.tensor_bytes)]
            sealed = seal(grant_id=grant.id, layout=layout, tensor=tensor, offset=offset, payload=payload)
            yield Frame(sealed=sealed, payload=payload)


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
