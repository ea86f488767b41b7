from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import zmq

from common.pb import embedding_pb2 as pb
from common.transport.base import Outgoing, SendTimeouts, ShipError
from common.transport.frame import MAX_PAYLOAD_BYTES, Frame, checksum, cut
from common.transport.zmq import ZmqReceiver, ZmqSender
from tests.unit.common.transport.kit import BIG, LAYOUT, TIMEOUTS, Item, Link, Side, connect, content


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    async with connect("zmq") as link:
        yield link


@asynccontextmanager
async def receiving(listen: str, advertise: str = "") -> AsyncIterator[Side]:
    side = Side()
    side.receiver = ZmqReceiver(sink=side.inbox, listen=listen, advertise=advertise)
    await side.receiver.start()
    try:
        yield side
    finally:
        await side.receiver.stop()


@asynccontextmanager
async def sending(timeouts: SendTimeouts = TIMEOUTS) -> AsyncIterator[ZmqSender]:
    sender = ZmqSender(timeouts=timeouts)
    try:
        yield sender
    finally:
        await sender.close()


@asynccontextmanager
async def stranger(address: str) -> AsyncIterator[zmq.Socket[bytes]]:
    """A socket of somebody who does not know the rules."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://{address}")
        yield socket


async def until(side: Side, name: str, count: float, **labels: str) -> None:
    async with asyncio.timeout(5):
        while side.count(name, **labels) < count:
            await asyncio.sleep(0.001)


class TestCurve:
    async def test_off_loopback_everything_is_encrypted_and_arrives(self) -> None:
        async with receiving("0.0.0.0:0", "127.0.0.1") as side, sending() as sender:
            assert side.receiver is not None
            endpoint = side.receiver.endpoint
            assert len(endpoint.curve_server_key) == 40
            grant = side.grant(BIG)
            await sender.ship(grant, endpoint, Item(BIG, seed=b"secret"))
            assert side.regions[grant.id] == content(BIG, b"secret")

    async def test_on_loopback_there_is_no_key(self, link: Link) -> None:
        assert link.endpoint.curve_server_key == b""

    async def test_a_loopback_port_that_is_advertised_elsewhere_is_encrypted(self) -> None:
        async with receiving("127.0.0.1:0", "example.org:9003") as side:
            assert side.receiver is not None
            assert side.receiver.endpoint.address == "example.org:9003"
            assert len(side.receiver.endpoint.curve_server_key) == 40

    async def test_with_another_key_nothing_is_accepted(self) -> None:
        async with receiving("0.0.0.0:0", "127.0.0.1") as side, sending(SendTimeouts(connect=0.5)) as sender:
            assert side.receiver is not None
            endpoint = pb.Endpoint(
                address=side.receiver.endpoint.address, curve_server_key=zmq.curve_keypair()[0], transport=pb.ZMQ
            )
            with pytest.raises(ShipError):
                await sender.ship(side.grant(), endpoint, Item())
            assert side.count("epd_frames_total", transport="zmq") == 0

    async def test_without_a_key_nothing_leaves_the_machine(self) -> None:
        async with sending() as sender:
            endpoint = pb.Endpoint(address="192.0.2.1:9003", transport=pb.ZMQ)
            with pytest.raises(ShipError, match="CURVE"):
                await sender.ship(Side().grant(), endpoint, Item())

    async def test_a_stranger_without_the_key_is_not_heard(self) -> None:
        async with receiving("0.0.0.0:0", "127.0.0.1") as side, sending() as sender:
            assert side.receiver is not None
            async with stranger(side.receiver.endpoint.address) as socket:
                socket.send_multipart([b"junk", b"junk"])
                await sender.ship(side.grant(), side.receiver.endpoint, Item())
            assert side.count("epd_frames_rejected_total", reason="malformed") == 0


class TestStrangers:
    @pytest.mark.parametrize(
        "parts",
        [
            [b""],
            [b"not a header"],
            [b"\xff" * 100, b"payload"],
            [b"\xff" * 10_000, b"payload"],
            [b"\x0a\x01", b"payload"],
            [b"a", b"b", b"c", b"d"],
        ],
    )
    async def test_junk_is_counted_and_ignored(self, link: Link, parts: list[bytes]) -> None:
        async with stranger(link.endpoint.address) as socket:
            for _ in range(20):
                socket.send_multipart(parts)
            await link.sender.ship(link.side.grant(), link.endpoint, Item())
            await until(link.side, "epd_frames_rejected_total", 20, reason="malformed")

    async def test_a_payload_of_another_length_makes_the_grant_void(self, link: Link) -> None:
        """Longer, it would be cut off by the receiving call without a word."""
        for extra in (b"and more", None):
            grant, item = link.side.grant(), Item()
            frames = [frame async for frame in cut(grant, item)]
            payload = bytes(frames[0].payload) + extra if extra else bytes(frames[0].payload)[:-1]
            async with stranger(link.endpoint.address) as socket:
                socket.send_multipart([frames[0].sealed.SerializeToString(), payload])
                await until(link.side, "epd_frames_rejected_total", 1, reason="length")
                async with asyncio.timeout(5):
                    while (grant.id, "length") not in link.side.ends.closed:
                        await asyncio.sleep(0.001)

    async def test_a_frame_of_three_parts_makes_the_grant_void(self, link: Link) -> None:
        grant = link.side.grant()
        frames = [frame async for frame in cut(grant, Item())]
        async with stranger(link.endpoint.address) as socket:
            socket.send_multipart([frames[0].sealed.SerializeToString(), frames[0].payload, b"third"])
            await until(link.side, "epd_frames_rejected_total", 1, reason="length")

    async def test_an_oversized_part_costs_its_sender_the_connection(self, link: Link) -> None:
        async with stranger(link.endpoint.address) as socket:
            monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            socket.send_multipart([b"x", bytes(MAX_PAYLOAD_BYTES + 1)])
            assert await asyncio.to_thread(monitor.poll, 5000)
            socket.disable_monitor()
            monitor.close()
        await link.sender.ship(link.side.grant(), link.endpoint, Item())

    async def test_a_receipt_comes_back_to_who_wrote_the_frame(self, link: Link) -> None:
        frames = [frame async for frame in cut(link.side.grant(known=False), Item())]
        async with stranger(link.endpoint.address) as socket:
            socket.send_multipart([frames[0].sealed.SerializeToString(), frames[0].payload])
            receipt = pb.Receipt.FromString(await asyncio.to_thread(socket.recv))
            assert receipt.outcome == pb.Receipt.UNKNOWN_GRANT


class SlowServer:
    """A ROUTER that accepts connections and reads only what it is told to."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.rcvhwm = 1
        self.socket.rcvbuf = 1 << 16
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = pb.Endpoint(transport=pb.ZMQ, address=f"127.0.0.1:{port}")

    async def read(self) -> pb.FrameHeader:
        """The header of the next frame, whose checksum is right."""
        assert await asyncio.to_thread(self.socket.poll, 5000)
        _, raw, payload = self.socket.recv_multipart()
        sealed = pb.SealedHeader.FromString(raw)
        assert checksum(sealed.header, memoryview(payload)) == sealed.checksum
        return pb.FrameHeader.FromString(sealed.header)

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
async def slow() -> AsyncIterator[SlowServer]:
    server = SlowServer()
    yield server
    server.close()


def grant_for(layout: object = BIG) -> pb.Grant:
    return pb.Grant(id=os.urandom(16), layout=layout.to_wire(), boot_id=b"boot")


async def test_a_small_item_is_not_stuck_behind_a_big_one(slow: SlowServer) -> None:
    big, small = grant_for(BIG), grant_for(LAYOUT)
    async with sending() as sender:
        first = asyncio.create_task(sender.ship(big, slow.endpoint, Item(BIG)))
        assert (await slow.read()).grant_id == big.id
        second = asyncio.create_task(sender.ship(small, slow.endpoint, Item(LAYOUT)))
        order = []
        while len(set(order)) < 2:
            order.append((await slow.read()).grant_id)
        # what libzmq and the kernel held already, of twelve frames
        assert len(order) <= 9
        for task in (first, second):
            task.cancel()
        slow.close()
        await asyncio.gather(first, second, return_exceptions=True)


async def test_two_big_items_take_turns(slow: SlowServer) -> None:
    grants = [grant_for(BIG) for _ in range(2)]
    async with sending() as sender:
        ships = [asyncio.create_task(sender.ship(grant, slow.endpoint, Item(BIG))) for grant in grants]
        order = [(await slow.read()).grant_id for _ in range(24)]
        assert {order.count(grant.id) for grant in grants} == {12}
        last_of_first = max(order.index(grant.id) for grant in grants)
        assert last_of_first < 8  # both had begun long before one was through
        for task in ships:
            task.cancel()
        await asyncio.gather(*ships, return_exceptions=True)


async def test_no_progress_ends_the_shipment(slow: SlowServer) -> None:
    async with sending(SendTimeouts(stall=0.3)) as sender:
        with pytest.raises(ShipError, match="took nothing"):
            await sender.ship(grant_for(BIG), slow.endpoint, Item(BIG))


async def test_a_cancelled_shipment_to_a_server_that_reads_nothing_ends_too(slow: SlowServer) -> None:
    """libzmq holds its memory until the connection is given up; only then does the cancellation come through."""
    async with sending(SendTimeouts(stall=0.5)) as sender:
        shipping = asyncio.create_task(sender.ship(grant_for(BIG), slow.endpoint, Item(BIG)))
        await slow.read()
        await asyncio.sleep(0)
        shipping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(shipping, 5)


async def test_a_cancelled_item_may_be_overwritten_at_once(slow: SlowServer) -> None:
    """The cancellation waits until libzmq needs the memory no more: what still arrives of the item is right."""
    async with sending() as sender:
        item = Item(BIG)
        shipping = asyncio.create_task(sender.ship(grant_for(BIG), slow.endpoint, item))
        shipping.add_done_callback(lambda _: item.bytes.__setitem__(slice(None), bytes(BIG.total_bytes)))
        for _ in range(4):
            await slow.read()
        shipping.cancel()
        read = 4
        while (more := await asyncio.to_thread(slow.socket.poll, 50)) or not shipping.done():
            if more:
                await slow.read()
                read += 1
        assert shipping.cancelled()
        assert read < 12  # it stopped


async def test_a_broken_connection_is_noticed_at_once(slow: SlowServer) -> None:
    async with sending(SendTimeouts(stall=60, receipt=60)) as sender:
        shipping = asyncio.create_task(sender.ship(grant_for(BIG), slow.endpoint, Item(BIG)))
        await slow.read()
        slow.close()
        with pytest.raises(ShipError, match="connection broke"):
            await asyncio.wait_for(shipping, 5)


async def test_something_else_on_the_port_is_not_a_language_server() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org\r\n" * 20)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1")
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, sending(SendTimeouts(connect=1.0)) as sender:
        with pytest.raises(ShipError):
            await sender.ship(grant_for(LAYOUT), pb.Endpoint(transport=pb.ZMQ, address=address), Item())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "localhost:http"])
async def test_a_malformed_address_is_an_error_of_that_shipment(address: str) -> None:
    async with connect("zmq", timeouts=SendTimeouts(connect=0.5)) as link:
        with pytest.raises(ShipError):
            await link.sender.ship(link.side.grant(), pb.Endpoint(transport=pb.ZMQ, address=address), Item())
        await link.sender.ship(link.side.grant(), link.endpoint, Item())


async def test_an_answer_that_is_no_receipt_is_ignored(slow: SlowServer) -> None:
    async with sending() as sender:
        grant = grant_for(LAYOUT)
        shipping = asyncio.create_task(sender.ship(grant, slow.endpoint, Item()))
        assert await asyncio.to_thread(slow.socket.poll, 5000)
        peer = slow.socket.recv_multipart()[0]
        receipt = pb.Receipt(grant_id=grant.id, outcome=pb.Receipt.RECEIVED).SerializeToString()
        other = pb.Receipt(grant_id=b"other", outcome=pb.Receipt.REVOKED).SerializeToString()
        for answer in (b"\xff\xff\xff", b"", other, receipt):
            slow.socket.send_multipart([peer, answer])
        await shipping


async def test_a_new_boot_gets_a_new_connection(slow: SlowServer) -> None:
    async with sending() as sender:
        peers = set()
        for boot_id in (b"first", b"first", b"second"):
            grant = grant_for(LAYOUT)
            grant.boot_id = boot_id
            shipping = asyncio.create_task(sender.ship(grant, slow.endpoint, Item()))
            for _ in LAYOUT.tensors:
                assert await asyncio.to_thread(slow.socket.poll, 5000)
                peer = slow.socket.recv_multipart()[0]
            receipt = pb.Receipt(grant_id=grant.id, outcome=pb.Receipt.RECEIVED)
            slow.socket.send_multipart([peer, receipt.SerializeToString()])
            await shipping
            peers.add(peer)
        assert len(peers) == 2


async def test_an_idle_connection_is_closed_and_made_anew() -> None:
    async with connect("zmq", timeouts=SendTimeouts(idle=0.1)) as link:
        for _ in range(2):
            await link.sender.ship(link.side.grant(), link.endpoint, Item())
            links = link.sender._links  # what the test is about has no other outside
            async with asyncio.timeout(5):
                while links._peers:
                    await asyncio.sleep(0.01)


async def test_closing_fails_what_is_under_way(link: Link) -> None:
    item = Item(hold=("main",))
    shipping = asyncio.create_task(link.sender.ship(link.side.grant(), link.endpoint, item))
    await item.asked.wait()
    closing = asyncio.create_task(link.sender.close())
    with pytest.raises(ShipError, match="closing"):
        await shipping
    await closing


async def test_a_taken_port_is_an_error(link: Link) -> None:
    receiver = ZmqReceiver(sink=Side().inbox, listen=link.endpoint.address)
    with pytest.raises(OSError, match="can't listen"):
        await receiver.start()


async def test_listening_everywhere_needs_an_address_to_advertise() -> None:
    receiver = ZmqReceiver(sink=Side().inbox, listen="0.0.0.0:0")
    with pytest.raises(ValueError, match="advertise"):
        await receiver.start()


async def test_what_is_held_up_is_bounded() -> None:
    """However fast frames are made, few are sealed and unsent at a time."""
    made = 0

    async def counting(grant: pb.Grant, item: Outgoing) -> AsyncGenerator[Frame, None]:
        nonlocal made
        async for frame in cut(grant, item):
            made += 1
            yield frame

    server = SlowServer()
    sender = ZmqSender(framer=counting, timeouts=SendTimeouts(stall=0.5))
    layout = BIG
    with pytest.raises(ShipError):
        await sender.ship(grant_for(layout), server.endpoint, Item(layout))
    await sender.close()
    server.close()
    assert made <= 11
