from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from common import rpc
from common.pb import embedding_pb2 as pb
from common.pb import embedding_pb2_grpc
from common.transport.base import SendTimeouts, ShipError
from common.transport.frame import cut
from tests.unit.common.transport.kit import BIG, Item, Link, connect


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    async with connect("grpc") as link:
        yield link


async def frames_of(grant: pb.Grant) -> list[pb.Frame]:
    return [pb.Frame(sealed=frame.sealed, payload=bytes(frame.payload)) async for frame in cut(grant, Item())]


async def transfer(link: Link, *frames: pb.Frame) -> pb.Receipt:
    """What a client that is not ours may send."""
    async with rpc.channel(link.endpoint.address) as channel:
        return await embedding_pb2_grpc.EmbeddingServiceStub(channel).Transfer(iter(frames))


async def test_a_call_that_ends_early_makes_the_grant_void(link: Link) -> None:
    """The writer says that it is through: nobody has to wait for a time-out to know that a frame is missing."""
    grant = link.side.grant()
    receipt = await transfer(link, *(await frames_of(grant))[:-1])
    assert receipt == pb.Receipt(grant_id=grant.id, outcome=pb.Receipt.REVOKED, detail="incomplete")
    assert link.side.ends.closed == [(grant.id, "incomplete")]


async def test_a_call_without_frames_is_answered(link: Link) -> None:
    assert (await transfer(link)).outcome == pb.Receipt.UNKNOWN_GRANT


async def test_frames_of_two_grants_in_one_call_are_refused(link: Link) -> None:
    first, second = link.side.grant(), link.side.grant()
    receipt = await transfer(link, (await frames_of(first))[0], (await frames_of(second))[0])
    assert receipt == pb.Receipt(grant_id=second.id, outcome=pb.Receipt.REVOKED, detail="malformed")
    assert link.side.ends.filled == []


async def test_a_payload_of_another_length_is_refused(link: Link) -> None:
    grant = link.side.grant()
    frame = (await frames_of(grant))[0]
    frame.payload = frame.payload[:-1]
    assert (await transfer(link, frame)).detail == "length"


async def test_a_connection_that_breaks_leaves_the_grant_for_its_server_to_revoke(link: Link) -> None:
    item, grant = Item(hold=("main",)), link.side.grant()
    shipping = asyncio.create_task(link.sender.ship(grant, link.endpoint, item))
    await item.asked.wait()
    while not link.side.count("epd_frames_total", transport="grpc"):
        await asyncio.sleep(0.001)
    shipping.cancel()
    await asyncio.gather(shipping, return_exceptions=True)
    assert link.side.receiver is not None
    while link.side.receiver._released:  # until its handler has ended
        await asyncio.sleep(0.001)
    assert link.side.ends.closed == []
    link.side.inbox.revoke(grant.id)
    assert link.side.ends.closed == [(grant.id, "")]


class Deaf(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Takes nothing and answers nothing."""

    async def Transfer(
        self, frames: AsyncIterator[pb.Frame], context: grpc.aio.ServicerContext[pb.Frame, pb.Receipt]
    ) -> pb.Receipt:
        await asyncio.Event().wait()
        raise AssertionError


async def test_no_progress_and_no_receipt_end_the_shipment() -> None:
    server = rpc.server()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Deaf(), server)
    endpoint = pb.Endpoint(transport=pb.GRPC, address=f"127.0.0.1:{rpc.add_port(server, '127.0.0.1:0')}")
    await server.start()
    async with connect("grpc", timeouts=SendTimeouts(stall=0.3, receipt=0.3)) as link:
        with pytest.raises(ShipError, match="took nothing"):
            await link.sender.ship(link.side.grant(BIG), endpoint, Item(BIG))
        with pytest.raises(ShipError, match="no receipt"):
            await link.sender.ship(link.side.grant(), endpoint, Item())
    await server.stop(None)


async def test_a_server_without_the_service_is_an_error() -> None:
    server = rpc.server()
    endpoint = pb.Endpoint(transport=pb.GRPC, address=f"127.0.0.1:{rpc.add_port(server, '127.0.0.1:0')}")
    await server.start()
    async with connect("grpc") as link:
        with pytest.raises(ShipError) as caught:
            await link.sender.ship(link.side.grant(), endpoint, Item())
        assert not caught.value.revoked
    await server.stop(None)
