from __future__ import annotations

import itertools

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from common.pb import embedding_pb2 as pb
from common.transport.frame import Frame, checksum, cut
from tests.unit.common.transport.kit import LAYOUT, Item

GRANT = pb.Grant(id=b"g" * 16, layout=LAYOUT.to_wire())


async def cut_all(item: Item, limit: int) -> list[Frame]:
    return [frame async for frame in cut(GRANT, item, limit=limit)]


@pytest.mark.parametrize("limit", [1, 100, LAYOUT.tensor_bytes, 1 << 20])
async def test_frames_cover_every_byte_once_in_the_order_of_the_making(limit: int) -> None:
    item = Item(seed=b"x")
    frames = await cut_all(item, limit)
    headers = [pb.FrameHeader.FromString(frame.sealed.header) for frame in frames]
    tensors = [tensor for tensor, _ in itertools.groupby(header.tensor for header in headers)]
    assert tensors == ["deepstack.0", "deepstack.1", "deepstack.2", "main"]
    whole = bytearray(LAYOUT.total_bytes)
    for header, frame in zip(headers, frames, strict=True):
        start = LAYOUT.offset(header.tensor) + header.offset
        assert not any(whole[start : start + header.length])
        whole[start : start + header.length] = frame.payload
        assert header.length == len(frame.payload) <= limit
        assert (header.dtype, list(header.shape)) == (LAYOUT.dtype, [LAYOUT.rows, LAYOUT.hidden])
    assert whole == item.bytes


async def test_payloads_are_views_and_not_copies() -> None:
    item = Item()
    frames = await cut_all(item, 100)
    item.data[:] = bytes([7]) * LAYOUT.total_bytes
    assert set(frames[-1].payload) == {7}


@given(st.binary(max_size=100), st.binary(max_size=1000))
@settings(max_examples=50, deadline=None)
def test_the_checksum_is_over_header_and_payload(header: bytes, payload: bytes) -> None:
    assert checksum(header, memoryview(payload)) == xxhash.xxh3_64_intdigest(header + payload)
