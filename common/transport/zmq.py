"""The data plane over ZMQ: one ROUTER at the language server, one DEALER per language server at the encode server.

A frame is two message parts, a serialized SealedHeader and the payload. A Receipt comes back on the same connection.
Off loopback the connection is CURVE-encrypted: libzmq allocates what a stranger announces before we can look, and
grant ids are secrets. The server's key travels in the grant's endpoint; clients need no identity of their own.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from contextlib import aclosing

import zmq
from google.protobuf.message import DecodeError

from common.logs import RateLimitedLog
from common.metrics import split_address
from common.pb import embedding_pb2 as pb
from common.transport.address import advertised, is_loopback, join, resolve
from common.transport.base import Delivery, FrameRejected, FrameSink, Outgoing, SendTimeouts, ShipError
from common.transport.frame import MAX_PAYLOAD_BYTES, Framer, cut
from common.transport.shipping import uninterrupted, until_receipt
from common.transport.waker import Waker
from common.transport.zmq_link import Links, PeerKey, Shipment, events

log = logging.getLogger(__name__)

MAX_SEALED_BYTES = 2048
# Whole frames that libzmq holds for us, for each connection; the rest waits in the sender.
_RECEIVE_HIGH_WATER_MARK = 4
_HANDSHAKE_MILLISECONDS = 5000
_FRAMES_A_TURN = 16


class ZmqReceiver:
    """Receives frames on a thread of its own and writes them where the sink says.

    Args:
        sink: the inbox.
        listen: "host:port" to bind; port 0 takes a free one.
        advertise: "host" or "host:port" that encode servers connect to; "" if it is the one bound.
    """

    def __init__(self, *, sink: FrameSink, listen: str, advertise: str = "") -> None:
        self._sink = sink
        self._listen = listen
        self._advertise = advertise
        self._endpoint = pb.Endpoint()
        self._writers: dict[bytes, bytes] = {}  # grant -> routing id of who writes under it
        self._thread: threading.Thread | None = None
        self._running = False
        self._warn = RateLimitedLog(log)

    @property
    def endpoint(self) -> pb.Endpoint:
        return self._endpoint

    async def start(self) -> None:
        """Binds and starts receiving.

        Raises:
            OSError: the address is taken or not ours.
            ValueError: nothing to advertise.
        """
        host, port = split_address(self._listen)
        advertised(self._listen, self._advertise, port)  # fails before anything is bound
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._endpoint = self._bind(host, port)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._waker = Waker()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="zmq-receiver", daemon=True)
        self._thread.start()

    def _bind(self, host: str, port: int) -> pb.Endpoint:
        socket = self._socket
        socket.linger = 0
        socket.ipv6 = True
        socket.maxmsgsize = MAX_PAYLOAD_BYTES
        socket.rcvhwm = _RECEIVE_HIGH_WATER_MARK
        socket.handshake_ivl = _HANDSHAKE_MILLISECONDS
        key = b""
        outside = split_address(advertised(self._listen, self._advertise, port or 1))[0]
        if not (is_loopback(host) and is_loopback(outside)):
            key, secret = zmq.curve_keypair()
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = key, secret
        try:
            socket.bind(f"tcp://{join(resolve(host), port)}")
        except zmq.ZMQError as error:
            raise OSError(f"can't listen on {self._listen}: {error}") from None
        last_endpoint = socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(last_endpoint, bytes)
        bound = split_address(last_endpoint.decode().removeprefix("tcp://").rstrip("\0"))[1]
        return pb.Endpoint(
            transport=pb.ZMQ, address=advertised(self._listen, self._advertise, bound), curve_server_key=key
        )

    @property
    def healthy(self) -> bool:
        return self._running

    def release(self, receipt: pb.Receipt) -> None:
        """See `Receiver`; a receiver that is stopping no longer tells anyone."""
        if self._running:
            self._waker.call(functools.partial(self._send_receipt, receipt))

    async def stop(self) -> None:
        """Closes the socket; returns once the thread has ended, so that nothing is written any more."""
        if self._thread is not None:
            self._waker.call(self._end)
            await asyncio.to_thread(self._thread.join)
            self._waker.close()
            self._thread = None

    def _end(self) -> None:
        self._running = False

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            while self._running:
                poller.poll()
                self._waker.run()
                for _ in range(_FRAMES_A_TURN):
                    if not self._running or not events(self._socket) & zmq.POLLIN:
                        break
                    self._receive()
        except Exception:
            log.exception("the data plane's receiver broke")
            raise
        finally:
            self._running = False
            self._context.destroy(linger=0)

    def _receive(self) -> None:
        """One message: routing id, sealed header, payload. All parts of a message are there when its first one is."""
        peer = self._socket.recv()
        try:
            receipt = self._receive_frame(peer)
        except FrameRejected as rejected:
            self._warn.warning(rejected.reason, "frame rejected: %s", rejected.reason)
            receipt = rejected.receipt
        while self._socket.get(zmq.RCVMORE):
            self._socket.recv(copy=False)
        if receipt is not None:
            self._writers[receipt.grant_id] = peer
            self._send_receipt(receipt)

    def _receive_frame(self, peer: bytes) -> pb.Receipt | None:
        head = self._socket.recv(copy=False)
        if len(head) > MAX_SEALED_BYTES or not self._socket.get(zmq.RCVMORE):
            self._sink.refuse("malformed")
            return None
        try:
            sealed = pb.SealedHeader.FromString(head.bytes)
        except DecodeError:
            self._sink.refuse("malformed")
            return None
        header, memory = self._sink.begin(sealed)
        self._writers[header.grant_id] = peer
        received = self._socket.recv_into(memory)  # the size of the part, also when it is not the memory's
        if received != len(memory) or self._socket.get(zmq.RCVMORE):
            return self._sink.reject(header, "length")
        return self._sink.commit(sealed, header, pb.ZMQ)

    def _send_receipt(self, receipt: pb.Receipt) -> None:
        """To the grant's writer; a ROUTER drops what is for a peer that left."""
        peer = self._writers.pop(receipt.grant_id, None)
        if peer is not None:
            self._socket.send_multipart((peer, receipt.SerializeToString()), zmq.NOBLOCK)


class ZmqSender:
    """Sends items to any number of language servers; one I/O thread owns all sockets.

    Payloads go out without a copy: `ship` returns, however it ends, only after libzmq is done with the item's memory.
    """

    def __init__(self, *, timeouts: SendTimeouts | None = None, framer: Framer = cut) -> None:
        self._framer = framer
        self._links = Links(timeouts or SendTimeouts())

    async def ship(self, grant: pb.Grant, endpoint: pb.Endpoint, item: Outgoing) -> Delivery:
        """See `Sender`."""
        if not endpoint.curve_server_key and not is_loopback(endpoint.address.rpartition(":")[0].strip("[]")):
            raise ShipError(f"{endpoint.address} is not on this machine and has no CURVE key", revoked=False)
        start = time.monotonic()
        key = PeerKey(address=endpoint.address, boot_id=grant.boot_id, curve_key=endpoint.curve_server_key)
        shipment = Shipment(grant_id=grant.id, loop=asyncio.get_running_loop())
        self._links.open(key, shipment)
        try:
            await until_receipt(self._pump(shipment, grant, item), shipment.receipt)
        finally:
            await uninterrupted(self._links.close(shipment))
        return Delivery(payload_bytes=item.layout.total_bytes, seconds=time.monotonic() - start, transport=pb.ZMQ)

    async def _pump(self, shipment: Shipment, grant: pb.Grant, item: Outgoing) -> None:
        async with aclosing(self._framer(grant, item)) as frames:
            async for frame in frames:
                await shipment.room.acquire()
                self._links.send(shipment, frame)
        self._links.finish(shipment)

    async def close(self) -> None:
        """Fails what is still under way and closes all sockets."""
        await self._links.stop()
