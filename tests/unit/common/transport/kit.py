"""An item to send, an inbox to receive it, and each transport as a pair of ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from common import rpc
from common.embeddings import EmbeddingLayout
from common.errors import EPDError
from common.pb import common_pb2
from common.pb import embedding_pb2 as pb
from common.transport.base import Receiver, Sender, SendTimeouts
from common.transport.frame import Framer, cut
from common.transport.grpc import GrpcReceiver, GrpcSender
from common.transport.local import LocalHub, LocalReceiver, LocalSender
from common.transport.zmq import ZmqReceiver, ZmqSender
from language_server.inbox import Inbox, InboxMetrics

LAYOUT = EmbeddingLayout(rows=7, hidden=24, levels=3, dtype=common_pb2.BFLOAT16)
BIG = EmbeddingLayout(rows=1500, hidden=2048, levels=3, dtype=common_pb2.BFLOAT16)  # 24 MB: more than sockets hold
TIMEOUTS = SendTimeouts(connect=5.0, stall=5.0, receipt=5.0, idle=60.0)


def content(layout: EmbeddingLayout, seed: bytes = b"") -> bytes:
    return hashlib.shake_256(seed).digest(layout.total_bytes)


class Item:
    """An `Outgoing`; `hold` names tensors that are not complete before `complete` is called."""

    def __init__(self, layout: EmbeddingLayout = LAYOUT, *, seed: bytes = b"", hold: tuple[str, ...] = ()) -> None:
        self.layout = layout
        self.bytes = bytearray(content(layout, seed))
        self.data = memoryview(self.bytes)
        self.order = (*layout.tensors[1:], "main")
        self.error: EPDError | None = None
        self._complete = {tensor: asyncio.Event() for tensor in layout.tensors}
        self.asked = asyncio.Event()  # somebody waits for a tensor that is held
        for tensor in set(layout.tensors) - set(hold):
            self._complete[tensor].set()

    def complete(self, tensor: str, error: EPDError | None = None) -> None:
        self.error = error
        self._complete[tensor].set()

    async def wait(self, tensor: str) -> None:
        if not self._complete[tensor].is_set():
            self.asked.set()
        await self._complete[tensor].wait()
        if self.error is not None:
            raise self.error


class Ends:
    """The ends of grants, as an inbox reports them."""

    def __init__(self) -> None:
        self.filled: list[bytes] = []
        self.closed: list[tuple[bytes, str]] = []
        self.changed = threading.Condition()

    def on_filled(self, grant_id: bytes) -> None:
        with self.changed:
            self.filled.append(grant_id)
            self.changed.notify_all()

    def on_closed(self, grant_id: bytes, reason: str) -> None:
        with self.changed:
            self.closed.append((grant_id, reason))
            self.changed.notify_all()


@dataclass(kw_only=True)
class Side:
    """A language server's side of a transport: an inbox with its receiver."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    ends: Ends = field(default_factory=Ends)
    regions: dict[bytes, bytearray] = field(default_factory=dict)
    boot_id: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        metrics = InboxMetrics(self.registry)
        self.inbox = Inbox(on_filled=self.ends.on_filled, on_closed=self._closed, metrics=metrics)
        self.receiver: Receiver | None = None

    def _closed(self, grant_id: bytes, reason: str) -> None:
        if self.receiver is not None:
            receipt = pb.Receipt(grant_id=grant_id, outcome=pb.Receipt.REVOKED, detail=reason)
            self.receiver.release(receipt)
        self.ends.on_closed(grant_id, reason)

    def grant(self, layout: EmbeddingLayout = LAYOUT, *, known: bool = True) -> pb.Grant:
        """A grant with this side's endpoint, opened in the inbox if it is to be known there."""
        grant_id = os.urandom(16)
        if known:
            self.regions[grant_id] = bytearray(layout.total_bytes)
            self.inbox.open(grant_id, layout, memoryview(self.regions[grant_id]))
        endpoints = [self.receiver.endpoint] if self.receiver is not None else []
        return pb.Grant(id=grant_id, layout=layout.to_wire(), endpoints=endpoints, boot_id=self.boot_id)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@dataclass(kw_only=True)
class Link:
    """Both sides of one transport."""

    transport: pb.Transport
    side: Side
    sender: Sender

    @property
    def endpoint(self) -> pb.Endpoint:
        assert self.side.receiver is not None
        return self.side.receiver.endpoint


@asynccontextmanager
async def connect(name: str, *, framer: Framer = cut, timeouts: SendTimeouts = TIMEOUTS) -> AsyncIterator[Link]:
    """A link over "zmq", "grpc" or "local"."""
    side = Side()
    sender: Sender
    if name == "zmq":
        side.receiver = ZmqReceiver(sink=side.inbox, listen="127.0.0.1:0")
        sender = ZmqSender(framer=framer, timeouts=timeouts)
    elif name == "grpc":
        server = rpc.server()
        side.receiver = receiver = GrpcReceiver(sink=side.inbox, server=server)
        receiver.advertise(f"127.0.0.1:{rpc.add_port(server, '127.0.0.1:0')}")
        sender = GrpcSender(framer=framer, timeouts=timeouts)
    else:
        hub = LocalHub()
        side.receiver = LocalReceiver(sink=side.inbox, hub=hub)
        sender = LocalSender(hub=hub, framer=framer)
    await side.receiver.start()
    if name == "grpc":
        await server.start()
    try:
        yield Link(transport=side.receiver.endpoint.transport, side=side, sender=sender)
    finally:
        await sender.close()
        await side.receiver.stop()
        if name == "grpc":
            await server.stop(None)
