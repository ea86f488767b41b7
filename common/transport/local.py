"""The data plane inside one process: frames go from memory to memory, with the checks of every other transport.

The two sides share a `LocalHub`, handed to both by whoever makes them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from common.pb import embedding_pb2 as pb
from common.transport.base import Delivery, FrameRejected, FrameSink, Outgoing, ShipError
from common.transport.frame import Framer, cut
from common.transport.shipping import until_receipt


class LocalHub:
    """The inboxes of this process by name, and the shipments that are under way to them. Of one event loop."""

    def __init__(self) -> None:
        self.sinks: dict[str, FrameSink] = {}
        self.shipments: dict[bytes, asyncio.Future[pb.Receipt]] = {}  # by grant

    def settle(self, receipt: pb.Receipt) -> None:
        shipment = self.shipments.get(receipt.grant_id)
        if shipment is not None and not shipment.done():
            shipment.set_result(receipt)


class LocalReceiver:
    """Makes `sink` known to the hub as `name`."""

    def __init__(self, *, sink: FrameSink, hub: LocalHub, name: str = "local") -> None:
        self._sink = sink
        self._hub = hub
        self._name = name

    async def start(self) -> None:
        assert self._name not in self._hub.sinks, f"two receivers are called {self._name!r}"
        self._loop = asyncio.get_running_loop()
        self._hub.sinks[self._name] = self._sink

    @property
    def endpoint(self) -> pb.Endpoint:
        return pb.Endpoint(transport=pb.LOCAL, address=self._name)

    @property
    def healthy(self) -> bool:
        return True

    def release(self, receipt: pb.Receipt) -> None:
        """See `Receiver`."""
        self._loop.call_soon_threadsafe(self._hub.settle, receipt)

    async def stop(self) -> None:
        del self._hub.sinks[self._name]


class LocalSender:
    """Copies items into the inboxes of the hub, one frame a turn of the event loop."""

    def __init__(self, *, hub: LocalHub, framer: Framer = cut) -> None:
        self._hub = hub
        self._framer = framer

    async def ship(self, grant: pb.Grant, endpoint: pb.Endpoint, item: Outgoing) -> Delivery:
        """See `Sender`."""
        start = time.monotonic()
        sink = self._hub.sinks.get(endpoint.address)
        if sink is None:
            raise ShipError(f"no language server called {endpoint.address!r} in this process", revoked=False)
        if grant.id in self._hub.shipments:
            raise ShipError("a grant is good for one shipment", revoked=False)
        receipt = self._hub.shipments[grant.id] = asyncio.get_running_loop().create_future()
        try:
            await until_receipt(self._pump(sink, grant, item), receipt)
        finally:
            del self._hub.shipments[grant.id]
        return Delivery(payload_bytes=item.layout.total_bytes, seconds=time.monotonic() - start, transport=pb.LOCAL)

    async def _pump(self, sink: FrameSink, grant: pb.Grant, item: Outgoing) -> None:
        async with aclosing(self._framer(grant, item)) as frames:
            async for frame in frames:
                try:
                    header, memory = sink.begin(frame.sealed)
                    memory[:] = frame.payload
                    receipt = sink.commit(frame.sealed, header, pb.LOCAL)
                except FrameRejected as rejected:
                    receipt = rejected.receipt
                if receipt is not None:
                    return self._hub.settle(receipt)
                await asyncio.sleep(0)  # other work, other items, cancellation
        return self._hub.settle(sink.void(grant.id, "incomplete"))

    async def close(self) -> None:
        """Nothing is held."""
