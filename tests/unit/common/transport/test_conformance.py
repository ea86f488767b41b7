"""What every transport does alike: one set of tests, three transports."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from common.errors import InternalError
from common.pb import embedding_pb2 as pb
from common.transport.base import Outgoing, SendTimeouts, ShipError
from common.transport.frame import Frame, Framer, cut
from tests.unit.common.transport.kit import BIG, LAYOUT, TIMEOUTS, Item, Link, connect, content

Connect = Callable[..., AbstractAsyncContextManager[Link]]


@pytest.fixture(params=["zmq", "grpc", "local"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def linked(name: str) -> Connect:
    return functools.partial(connect, name)


@pytest.fixture
async def link(linked: Connect) -> AsyncIterator[Link]:
    async with linked() as link:
        yield link


def spoil(change: Callable[[int, Frame], list[Frame]]) -> Framer:
    """Cuts small frames and puts what `change` makes of each in its place."""

    async def framer(grant: pb.Grant, item: Outgoing) -> AsyncGenerator[Frame, None]:
        number = 0
        async for frame in cut(grant, item, limit=100):
            for changed in change(number, frame):
                yield changed
            number += 1

    return framer


def flipped(frame: Frame) -> Frame:
    payload = bytearray(frame.payload)
    payload[len(payload) // 2] ^= 4
    return Frame(sealed=frame.sealed, payload=memoryview(payload))


async def test_an_item_arrives_as_it_was(link: Link, name: str) -> None:
    item, grant = Item(seed=b"a"), link.side.grant()
    delivery = await link.sender.ship(grant, link.endpoint, item)
    assert link.side.regions[grant.id] == content(LAYOUT, b"a")
    assert link.side.ends.filled == [grant.id]
    assert link.side.ends.closed == []
    assert (delivery.payload_bytes, delivery.transport) == (LAYOUT.total_bytes, link.transport)


async def test_both_sides_count_bytes_under_the_transport_that_carried_them(link: Link, name: str) -> None:
    delivery = await link.sender.ship(link.side.grant(), link.endpoint, Item())
    assert pb.Transport.Name(delivery.transport).lower() == name
    counted = {
        other: link.side.count("epd_transfer_bytes_total", transport=other) for other in ("zmq", "grpc", "local")
    }
    assert counted == {"zmq": 0.0, "grpc": 0.0, "local": 0.0, name: LAYOUT.total_bytes}


async def test_many_items_at_once_do_not_mix(link: Link) -> None:
    grants = [link.side.grant() for _ in range(32)]
    items = [Item(seed=grant.id) for grant in grants]
    await asyncio.gather(
        *(link.sender.ship(grant, link.endpoint, item) for grant, item in zip(grants, items, strict=True))
    )
    assert all(link.side.regions[grant.id] == content(LAYOUT, grant.id) for grant in grants)


async def test_an_item_of_many_frames_arrives(link: Link) -> None:
    grant = link.side.grant(BIG)
    await link.sender.ship(grant, link.endpoint, Item(BIG, seed=b"big"))
    assert link.side.regions[grant.id] == content(BIG, b"big")


async def test_a_level_is_sent_before_the_next_one_exists(link: Link) -> None:
    item, grant = Item(hold=("deepstack.1", "main")), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    start, end = LAYOUT.offset("deepstack.0"), LAYOUT.offset("deepstack.0") + LAYOUT.tensor_bytes
    while link.side.regions[grant.id][start:end] != item.bytes[start:end]:
        await asyncio.sleep(0.001)
    assert link.side.ends.filled == []
    item.complete("deepstack.1")
    item.complete("main")
    await shipping
    assert link.side.ends.filled == [grant.id]


async def test_an_item_that_fails_half_way_is_the_items_failure(link: Link) -> None:
    item, grant = Item(hold=("main",)), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    item.complete("main", InternalError("the tower broke"))
    with pytest.raises(InternalError, match="the tower broke"):
        await shipping
    assert link.side.ends.filled == []


async def test_an_unknown_grant_is_refused(link: Link) -> None:
    with pytest.raises(ShipError, match="never knew this grant") as caught:
        await link.sender.ship(link.side.grant(known=False), link.endpoint, Item())
    assert caught.value.revoked
    assert link.side.count("epd_frames_rejected_total", reason="unknown_grant") >= 1


async def test_a_grant_is_good_for_one_shipment(link: Link) -> None:
    grant = link.side.grant()
    await link.sender.ship(grant, link.endpoint, Item(seed=b"first"))
    with pytest.raises(ShipError):
        await link.sender.ship(grant, link.endpoint, Item(seed=b"second"))
    assert link.side.regions[grant.id] == content(LAYOUT, b"first")


async def test_a_flipped_bit_makes_the_grant_void(linked: Connect) -> None:
    async with linked(framer=spoil(lambda i, frame: [flipped(frame)] if i == 3 else [frame])) as link:
        grant = link.side.grant()
        with pytest.raises(ShipError, match="checksum") as caught:
            await link.sender.ship(grant, link.endpoint, Item())
        assert caught.value.revoked
        assert link.side.ends.closed == [(grant.id, "checksum")]
        assert link.side.ends.filled == []
        # the transport goes on: the next grant is another matter
        assert link.side.count("epd_frames_rejected_total", reason="checksum") == 1


async def test_after_a_bad_frame_other_items_still_arrive(linked: Connect) -> None:
    bad: list[bytes] = []

    def change(number: int, frame: Frame) -> list[Frame]:
        header = pb.FrameHeader.FromString(frame.sealed.header)
        return [flipped(frame)] if header.grant_id in bad else [frame]

    async with linked(framer=spoil(change)) as link:
        first, second = link.side.grant(), link.side.grant()
        bad.append(first.id)
        outcomes = await asyncio.gather(
            *(link.sender.ship(grant, link.endpoint, Item(seed=b"x")) for grant in (first, second)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], ShipError)
        assert link.side.regions[second.id] == content(LAYOUT, b"x")


async def test_a_duplicated_frame_is_harmless(linked: Connect) -> None:
    async with linked(framer=spoil(lambda i, frame: [frame, frame] if i % 2 else [frame])) as link:
        grant = link.side.grant()
        await link.sender.ship(grant, link.endpoint, Item(seed=b"twice"))
        assert link.side.regions[grant.id] == content(LAYOUT, b"twice")
        assert link.side.count("epd_frames_rejected_total", reason="duplicate") >= 4


async def test_a_withheld_frame_never_counts_as_received(linked: Connect) -> None:
    timeouts = SendTimeouts(receipt=0.2)
    async with linked(framer=spoil(lambda i, frame: [] if i == 2 else [frame]), timeouts=timeouts) as link:
        grant = link.side.grant()
        with pytest.raises(ShipError):
            await link.sender.ship(grant, link.endpoint, Item())
        assert link.side.ends.filled == []


async def test_a_revocation_reaches_the_sender(link: Link) -> None:
    item, grant = Item(hold=("main",)), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    while not link.side.count("epd_frames_total", transport=pb.Transport.Name(link.transport).lower()):
        await asyncio.sleep(0.001)
    link.side.inbox.revoke(grant.id)
    with pytest.raises(ShipError) as caught:
        await shipping
    assert caught.value.revoked
    assert link.side.ends.closed == [(grant.id, "")]


async def test_nothing_is_written_after_a_revocation(link: Link) -> None:
    item, grant = Item(hold=("main",), seed=b"late"), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    link.side.inbox.revoke(grant.id)
    region = link.side.regions[grant.id]
    region[:] = bytes(len(region))  # the room is somebody else's now
    item.complete("main")
    with pytest.raises(ShipError):
        await shipping
    assert region == bytes(len(region))


async def test_cancelling_leaves_the_transport_usable(link: Link) -> None:
    item, grant = Item(hold=("main",)), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    shipping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shipping
    assert link.side.ends.filled == []
    again = link.side.grant()
    await link.sender.ship(again, link.endpoint, Item(seed=b"again"))
    assert link.side.regions[again.id] == content(LAYOUT, b"again")


async def test_a_server_that_is_not_there_is_an_error_in_time(name: str) -> None:
    endpoint = {
        "zmq": pb.Endpoint(transport=pb.ZMQ, address="127.0.0.1:9"),
        "grpc": pb.Endpoint(transport=pb.GRPC, address="127.0.0.1:9"),
        "local": pb.Endpoint(transport=pb.LOCAL, address="nobody"),
    }[name]
    async with connect(name, timeouts=SendTimeouts(connect=0.3)) as link:
        with pytest.raises(ShipError) as caught:
            await link.sender.ship(link.side.grant(), endpoint, Item())
        assert not caught.value.revoked


@pytest.mark.parametrize("name", ["zmq", "grpc"], indirect=True)
async def test_a_server_that_stops_under_way_is_an_error(link: Link, name: str) -> None:
    item, grant = Item(hold=("main",)), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    while not link.side.count("epd_frames_total", transport=name):
        await asyncio.sleep(0.001)
    assert link.side.receiver is not None
    await link.side.receiver.stop()
    with pytest.raises(ShipError):
        await asyncio.wait_for(shipping, TIMEOUTS.stall)


@pytest.mark.parametrize("limit", [1, 7, 48, 100, 336, 1 << 20])
async def test_frames_of_any_size_assemble(linked: Connect, limit: int) -> None:
    async with linked(framer=functools.partial(cut, limit=limit)) as link:
        grant = link.side.grant()
        await link.sender.ship(grant, link.endpoint, Item(seed=b"any"))
        assert link.side.regions[grant.id] == content(LAYOUT, b"any")
