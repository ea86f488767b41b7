"""The data plane over gRPC: one client-streaming call a shipment, the receipt is its response.

For conformance, and for networks that allow nothing but HTTP/2; each payload is copied by gRPC on both sides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import grpc

from common import rpc
from common.errors import from_rpc_error
from common.logs import RateLimitedLog
from common.pb import embedding_pb2 as pb
from common.pb import embedding_pb2_grpc as services
from common.transport.base import Delivery, FrameRejected, FrameSink, Outgoing, SendTimeouts, ShipError
from common.transport.frame import Framer, cut
from common.transport.shipping import until_receipt

log = logging.getLogger(__name__)

_CANCELLATION_SECONDS = 0.1

_Call = grpc.aio.StreamUnaryCall[pb.Frame, pb.Receipt]


class GrpcReceiver(services.EmbeddingServiceServicer):
    """Receives frames as a service of a gRPC server that its owner starts and stops.

    Args:
        sink: the inbox.
        server: takes the service; not started yet.
    """

    def __init__(self, *, sink: FrameSink, server: grpc.aio.Server) -> None:
        self._sink = sink
        self._endpoint = pb.Endpoint(transport=pb.GRPC)
        self._released: dict[bytes, asyncio.Future[pb.Receipt]] = {}  # by the grant of each call under way
        self._warn = RateLimitedLog(log)
        services.add_EmbeddingServiceServicer_to_server(self, server)

    def advertise(self, address: str) -> None:
        """Sets "host:port", where the server is reached; called once its port is bound."""
        self._endpoint.address = address

    async def start(self) -> None:
        """Frames are taken as soon as the gRPC server runs."""
        assert self._endpoint.address, "advertise() comes first"
        self._loop = asyncio.get_running_loop()

    @property
    def endpoint(self) -> pb.Endpoint:
        return self._endpoint

    @property
    def healthy(self) -> bool:
        return True

    def release(self, receipt: pb.Receipt) -> None:
        """See `Receiver`."""
        self._loop.call_soon_threadsafe(self._release, receipt)

    async def stop(self) -> None:
        """Ends the calls under way."""
        for grant_id in list(self._released):
            self._release(pb.Receipt(grant_id=grant_id, outcome=pb.Receipt.REVOKED, detail="shutting down"))

    async def Transfer(
        self, frames: AsyncIterator[pb.Frame], context: grpc.aio.ServicerContext[pb.Frame, pb.Receipt]
    ) -> pb.Receipt:
        """See proto/embedding.proto."""
        released: asyncio.Future[pb.Receipt] = self._loop.create_future()
        receiving = asyncio.ensure_future(self._receive(frames, released))
        try:
            await asyncio.wait((receiving, released), return_when=asyncio.FIRST_COMPLETED)
            return released.result() if released.done() else await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            for grant_id in [known for known, future in self._released.items() if future is released]:
                del self._released[grant_id]

    async def _receive(self, frames: AsyncIterator[pb.Frame], released: asyncio.Future[pb.Receipt]) -> pb.Receipt:
        grant_id = b""
        async for frame in frames:
            try:
                header, memory = self._sink.begin(frame.sealed)
                if not grant_id:
                    grant_id = header.grant_id
                    self._released[grant_id] = released
                payload = frame.payload
                if len(payload) != len(memory) or header.grant_id != grant_id:
                    return self._sink.reject(header, "length" if header.grant_id == grant_id else "malformed")
                memory[:] = payload
                receipt = self._sink.commit(frame.sealed, header, pb.GRPC)
            except FrameRejected as rejected:
                self._warn.warning(rejected.reason, "frame rejected: %s", rejected.reason)
                receipt = rejected.receipt
            if receipt is not None:
                return receipt
        # A call that broke looks like one that was ended, until gRPC cancels its handler a moment later. Only a writer
        # that is still there can have left something out; of one that is gone, its router says what is to become.
        await asyncio.sleep(_CANCELLATION_SECONDS)
        return self._sink.void(grant_id, "incomplete")

    def _release(self, receipt: pb.Receipt) -> None:
        released = self._released.pop(receipt.grant_id, None)
        if released is not None and not released.done():
            released.set_result(receipt)


class GrpcSender:
    """Sends items to any number of language servers, over one channel each."""

    def __init__(self, *, timeouts: SendTimeouts | None = None, framer: Framer = cut) -> None:
        self._timeouts = timeouts or SendTimeouts()
        self._framer = framer
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def ship(self, grant: pb.Grant, endpoint: pb.Endpoint, item: Outgoing) -> Delivery:
        """See `Sender`."""
        start = time.monotonic()
        if endpoint.address not in self._channels:
            self._channels[endpoint.address] = rpc.channel(endpoint.address)
        await self._connected(endpoint.address)
        stub = services.EmbeddingServiceStub(self._channels[endpoint.address])
        call: _Call = stub.Transfer()
        receipt: asyncio.Future[pb.Receipt] = asyncio.get_running_loop().create_future()
        answering = asyncio.ensure_future(_answer(call, endpoint.address, receipt))
        try:
            await until_receipt(self._pump(call, grant, endpoint.address, item, receipt), receipt)
        finally:
            call.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        return Delivery(payload_bytes=item.layout.total_bytes, seconds=time.monotonic() - start, transport=pb.GRPC)

    async def _connected(self, address: str) -> None:
        channel = self._channels[address]
        try:
            async with asyncio.timeout(self._timeouts.connect):
                while (state := channel.get_state(try_to_connect=True)) != grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            message = f"can't connect to {address} within {self._timeouts.connect:g} s"
            raise ShipError(message, revoked=False) from None

    async def _pump(
        self, call: _Call, grant: pb.Grant, address: str, item: Outgoing, receipt: asyncio.Future[pb.Receipt]
    ) -> None:
        """Sends the frames, then gives the receipt its time."""
        timeouts = self._timeouts
        try:
            async with aclosing(self._framer(grant, item)) as frames:
                async for frame in frames:
                    with _limit(receipt, timeouts.stall, f"{address} took nothing for {timeouts.stall:g} s"):
                        await call.write(pb.Frame(sealed=frame.sealed, payload=bytes(frame.payload)))
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended early: its receipt, or its status, says why
        with _limit(receipt, timeouts.receipt, f"no receipt from {address} within {timeouts.receipt:g} s"):
            await asyncio.wait((receipt,))

    async def close(self) -> None:
        """Closes the channels; what is still under way fails."""
        for channel in self._channels.values():
            await channel.close(None)


async def _answer(call: _Call, address: str, receipt: asyncio.Future[pb.Receipt]) -> None:
    """Settles `receipt` with what the call ends in."""
    try:
        answer = await call
    except grpc.RpcError as error:
        _fail(receipt, from_rpc_error(error, address).message)
    else:
        if not receipt.done():
            receipt.set_result(answer)


@contextmanager
def _limit(receipt: asyncio.Future[pb.Receipt], seconds: float, message: str) -> Iterator[None]:
    """Fails `receipt` if what is inside takes longer; unlike a cancelled write, this leaves the call as it is."""
    timer = asyncio.get_running_loop().call_later(seconds, _fail, receipt, message)
    try:
        yield
    finally:
        timer.cancel()


def _fail(receipt: asyncio.Future[pb.Receipt], message: str) -> None:
    if not receipt.done():
        receipt.set_exception(ShipError(message, revoked=False))
        receipt.exception()  # a caller who was cancelled does not ask for it
