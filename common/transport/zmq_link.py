"""The ZMQ sender's I/O thread: its connections to language servers, and the shipments that share them.

A connection takes one frame of each of its shipments in turn. Who is behind or gone is found by three clocks (see
`SendTimeouts`) and by the socket's monitor. A connection that failed is closed, which also makes libzmq let go of the
frames it held; the next shipment to that server makes a new one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import zmq
from google.protobuf.message import DecodeError
from zmq.utils.monitor import recv_monitor_message

from common.logs import RateLimitedLog
from common.pb import embedding_pb2 as pb
from common.transport.base import SendTimeouts, ShipError
from common.transport.frame import Frame
from common.transport.waker import Waker

log = logging.getLogger(__name__)

_UNSENT_FRAMES = 4  # that libzmq holds for a server
_FRAMES_AHEAD = 2  # of a shipment, sealed and waiting for their turn
_MAX_RECEIPT_BYTES = 4096
_HEARTBEAT_MILLISECONDS = 10_000
_SILENCE_MILLISECONDS = 30_000
_TICK_MILLISECONDS = 100  # between looks at the clocks while something is under way
_LET_GO_MILLISECONDS = 1  # between looks whether libzmq has let go of a closed shipment's memory
_DOWN: dict[int, str] = {
    zmq.EVENT_DISCONNECTED: "the connection broke",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: not the protocol or not the key that was expected",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the handshake failed: not admitted",
}
_EVENTS = functools.reduce(int.__or__, _DOWN, int(zmq.EVENT_HANDSHAKE_SUCCEEDED))


def events(socket: zmq.Socket[bytes]) -> int:
    """Whether `socket` can be read (POLLIN) or written (POLLOUT) now."""
    ready = socket.get(zmq.EVENTS)
    assert isinstance(ready, int)
    return ready


@dataclass(frozen=True, kw_only=True)
class PeerKey:
    """A boot of a language server: its successor at the same address gets a socket of its own."""

    address: str
    boot_id: bytes
    curve_key: bytes


class Shipment:
    """One `ship` call. The upper fields belong to the event loop, the lower ones to the I/O thread."""

    def __init__(self, *, grant_id: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.grant_id = grant_id
        self.receipt: asyncio.Future[pb.Receipt] = loop.create_future()
        self.room = asyncio.Semaphore(_FRAMES_AHEAD)
        self._loop = loop

        self.peer: _Peer | None = None  # until the connection fails
        self.frames: deque[Frame] = deque()
        self.trackers: list[zmq.MessageTracker] = []  # of frames that libzmq may still read
        self.finished = False  # no further frame will come
        self.active = 0.0  # when its last frame left
        self.closed: asyncio.Future[None] | None = None

    def frame_taken(self) -> None:
        self._loop.call_soon_threadsafe(self.room.release)

    def deliver(self, receipt: pb.Receipt) -> None:
        self._loop.call_soon_threadsafe(self._settle, receipt)

    def fail(self, message: str) -> None:
        self._loop.call_soon_threadsafe(self._settle, ShipError(message, revoked=False))

    def let_go(self) -> None:
        assert self.closed is not None
        self._loop.call_soon_threadsafe(self.closed.set_result, None)

    def _settle(self, outcome: pb.Receipt | ShipError) -> None:
        if self.receipt.done():
            return
        if isinstance(outcome, pb.Receipt):
            self.receipt.set_result(outcome)
        else:
            self.receipt.set_exception(outcome)
            self.receipt.exception()  # a caller who was cancelled does not ask for it


class _Peer:
    """A connection. `turns` are the shipments that have frames to send, in the order in which they may."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], key: PeerKey) -> None:
        self.key = key
        self.shipments: dict[bytes, Shipment] = {}
        self.turns: deque[Shipment] = deque()
        self.connected = False
        self.active = time.monotonic()  # when something last moved
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.immediate = True
        self.socket.ipv6 = True
        self.socket.sndhwm = _UNSENT_FRAMES
        self.socket.maxmsgsize = _MAX_RECEIPT_BYTES
        self.socket.heartbeat_ivl = _HEARTBEAT_MILLISECONDS
        self.socket.heartbeat_timeout = _SILENCE_MILLISECONDS
        self.socket.heartbeat_ttl = _SILENCE_MILLISECONDS  # the language server, too, notices that we vanished
        if key.curve_key:
            self.socket.curve_serverkey = key.curve_key
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.curve_keypair()
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        self.monitor.linger = 0
        try:
            self.socket.connect(f"tcp://{key.address}")
        except zmq.ZMQError:
            self.close()
            raise

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()

    def holds_frames(self) -> bool:
        return bool(self.turns) or any(shipment.trackers for shipment in self.shipments.values())


class Links:
    """All connections of a `ZmqSender`. The public methods belong to the event loop, the others to the I/O thread."""

    def __init__(self, timeouts: SendTimeouts) -> None:
        self._timeouts = timeouts
        self._warn = RateLimitedLog(log)
        self._peers: dict[PeerKey, _Peer] = {}
        self._live: set[Shipment] = set()  # opened, and libzmq may still read their memory
        self._stopping = False
        self._thread: threading.Thread | None = None

    def open(self, key: PeerKey, shipment: Shipment) -> None:
        """Makes `shipment` one of the connection's, and the connection if there is none."""
        if self._thread is None:
            self._context = zmq.Context()
            self._poller = zmq.Poller()
            self._waker = Waker()
            self._poller.register(self._waker.fileno(), zmq.POLLIN)
            self._thread = threading.Thread(target=self._run, name="zmq-sender", daemon=True)
            self._thread.start()
        self._waker.call(functools.partial(self._open, key, shipment))

    def send(self, shipment: Shipment, frame: Frame) -> None:
        self._waker.call(functools.partial(self._queue, shipment, frame))

    def finish(self, shipment: Shipment) -> None:
        """Every frame was given: from when the last one has left, a receipt is due."""
        self._waker.call(functools.partial(self._finish, shipment))

    def close(self, shipment: Shipment) -> asyncio.Future[None]:
        """Sends no further frame; the future is done once libzmq holds none of the shipment's memory."""
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waker.call(functools.partial(self._close, shipment, closed))
        return closed

    async def stop(self) -> None:
        """Fails all shipments and returns when the last of them is closed and the thread has ended."""
        if self._thread is not None and not self._stopping:
            self._waker.call(self._stop)
            await asyncio.to_thread(self._thread.join)
            self._waker.close()
            self._context.term()
            self._thread, self._stopping = None, False

    def _run(self) -> None:
        while not (self._stopping and not self._live):
            self._poller.poll(self._patience())
            self._waker.run()
            for peer in list(self._peers.values()):
                try:
                    self._serve(peer)
                except Exception as error:  # noqa: BLE001  whatever it is, it is one connection's end
                    self._warn.error("broke", "the connection to %s broke", peer.key.address, trace=error)
                    self._fail(peer, f"the connection broke: {error}")
            self._let_go()

    def _patience(self) -> int | None:
        """Milliseconds until something has to be looked at though nothing happens."""
        if any(shipment.closed is not None for shipment in self._live):
            return _LET_GO_MILLISECONDS
        if self._live:
            return _TICK_MILLISECONDS
        return int(1000 * self._timeouts.idle) if self._peers else None

    def _open(self, key: PeerKey, shipment: Shipment) -> None:
        self._live.add(shipment)
        if self._stopping:
            return shipment.fail("the sender is closing")
        peer = self._peers.get(key)
        if peer is None:
            try:
                peer = self._peers[key] = _Peer(self._context, key)
            except zmq.ZMQError as error:
                return shipment.fail(f"can't connect to {key.address}: {error}")
            self._poller.register(peer.monitor, zmq.POLLIN)
        if shipment.grant_id in peer.shipments:
            return shipment.fail("a grant is good for one shipment")
        peer.shipments[shipment.grant_id] = shipment
        shipment.peer = peer
        return None

    def _queue(self, shipment: Shipment, frame: Frame) -> None:
        peer = shipment.peer
        if peer is None:
            return
        if not peer.holds_frames():
            peer.active = time.monotonic()
        if not shipment.frames:
            peer.turns.append(shipment)
        shipment.frames.append(frame)

    def _finish(self, shipment: Shipment) -> None:
        shipment.finished = True
        shipment.active = time.monotonic()

    def _close(self, shipment: Shipment, closed: asyncio.Future[None]) -> None:
        shipment.closed = closed
        if shipment.frames:
            shipment.frames.clear()
            if shipment.peer is not None:
                shipment.peer.turns.remove(shipment)

    def _stop(self) -> None:
        self._stopping = True
        for peer in list(self._peers.values()):
            self._fail(peer, "the sender is closing")

    def _serve(self, peer: _Peer) -> None:
        while events(peer.monitor) & zmq.POLLIN:
            event = recv_monitor_message(peer.monitor)["event"]
            if event in _DOWN:
                return self._fail(peer, _DOWN[event])
            peer.connected = True
            peer.active = time.monotonic()
        while events(peer.socket) & zmq.POLLIN:
            self._receive(peer)
        while peer.turns and events(peer.socket) & zmq.POLLOUT:
            self._send_one(peer)
        self._poller.register(peer.socket, zmq.POLLIN | zmq.POLLOUT if peer.turns else zmq.POLLIN)
        return self._watch(peer)

    def _receive(self, peer: _Peer) -> None:
        parts = peer.socket.recv_multipart()
        peer.active = time.monotonic()
        try:
            receipt = pb.Receipt.FromString(parts[0])
        except DecodeError:
            self._warn.warning("receipt", "%s sent something that is not a receipt", peer.key.address)
            return
        # An unknown one is the echo of a frame that came late.
        if (shipment := peer.shipments.get(receipt.grant_id)) is not None:
            shipment.deliver(receipt)

    def _send_one(self, peer: _Peer) -> None:
        """A frame of the shipment whose turn it is; if it has another one, it queues up again."""
        shipment = peer.turns.popleft()
        frame = shipment.frames.popleft()
        parts = (frame.sealed.SerializeToString(), frame.payload)
        tracker = peer.socket.send_multipart(parts, zmq.NOBLOCK, copy=False, track=True)
        assert tracker is not None
        shipment.trackers.append(tracker)
        if shipment.frames:
            peer.turns.append(shipment)
        shipment.frame_taken()
        peer.active = time.monotonic()

    def _watch(self, peer: _Peer) -> None:
        """Looks what has left, and at the clocks."""
        now = time.monotonic()
        for shipment in peer.shipments.values():
            held = [tracker for tracker in shipment.trackers if not tracker.done]
            if len(held) < len(shipment.trackers):
                shipment.trackers = held
                shipment.active = peer.active = now
            if shipment.finished and not held and now - shipment.active > self._timeouts.receipt:
                shipment.fail(f"no receipt from {peer.key.address} within {self._timeouts.receipt:g} s")
        waited = now - peer.active
        if not peer.connected:
            if waited > self._timeouts.connect:
                self._fail(peer, f"can't connect to {peer.key.address} within {self._timeouts.connect:g} s")
        elif peer.holds_frames():
            if waited > self._timeouts.stall:
                self._fail(peer, f"{peer.key.address} took nothing for {self._timeouts.stall:g} s")
        elif not peer.shipments and waited > self._timeouts.idle:
            self._fail(peer, "idle")

    def _fail(self, peer: _Peer, message: str) -> None:
        """Closes the connection and fails its shipments; libzmq then lets go of their memory."""
        del self._peers[peer.key]
        for socket in (peer.monitor, peer.socket):
            if socket in self._poller:
                self._poller.unregister(socket)
        peer.close()
        for shipment in peer.shipments.values():
            shipment.fail(message)
            shipment.frames.clear()
            shipment.peer = None

    def _let_go(self) -> None:
        for shipment in [shipment for shipment in self._live if shipment.closed is not None]:
            if all(tracker.done for tracker in shipment.trackers):
                self._live.remove(shipment)
                if shipment.peer is not None:
                    shipment.peer.shipments.pop(shipment.grant_id, None)
                    shipment.peer.active = time.monotonic()
                shipment.let_go()
