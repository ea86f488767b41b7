"""Delays packets, for kernels whose tc has no netem: takes them from a queue of the packet filter, returns them later.

    python delay.py QUEUE MILLISECONDS

in the network namespace, with a rule that sends packets to the queue (iptables ... -j NFQUEUE --queue-num QUEUE). Says
"ready" once it listens, and goes on until SIGTERM. The packets themselves stay in the kernel.

Messages are those of linux/netlink.h and linux/netfilter/nfnetlink_queue.h. Needs nothing but the standard library.
"""

from __future__ import annotations

import collections
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 3  # queues
_PACKET, _VERDICT, _CONFIG = 0, 1, 2  # kinds of messages
_REQUEST, _ACK = 1, 4  # flags of messages
_CONFIG_COMMAND, _CONFIG_PARAMETERS, _CONFIG_LENGTH, _CONFIG_MASK, _CONFIG_FLAGS = 1, 2, 3, 4, 5
_BIND, _COPY_META = 1, 1
_FAIL_OPEN, _GSO = 1, 4  # what finds the queue full passes; large frames come whole
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_ACCEPT = 1
_LENGTH = 65536  # packets in the queue
_BUFFER_BYTES = 64 << 20
_SO_RCVBUFFORCE, _SOL_NETLINK, _NO_ENOBUFS = 33, 270, 5

_HEAD = struct.Struct("=IHHII")  # length, type, flags, sequence, port: of a netlink message
_FAMILY = struct.Struct("!BBH")  # family, version, queue
_ATTRIBUTE = struct.Struct("=HH")  # length, type


class Queue:
    """One queue of this network namespace."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        self._configure(_attribute(_CONFIG_COMMAND, struct.pack("!BxH", _BIND, 0)))
        self._configure(_attribute(_CONFIG_PARAMETERS, struct.pack("!IB", 0, _COPY_META)))
        self._configure(_attribute(_CONFIG_LENGTH, struct.pack("!I", _LENGTH)))
        flags = struct.pack("!I", _FAIL_OPEN | _GSO)
        self._configure(_attribute(_CONFIG_FLAGS, flags) + _attribute(_CONFIG_MASK, flags))

    def fileno(self) -> int:
        return self._socket.fileno()

    def packets(self) -> Iterator[int]:
        """Numbers of those that have come."""
        data = self._socket.recv(1 << 20)
        while data:
            length, kind, *_ = _HEAD.unpack_from(data)
            if kind == _SUBSYSTEM << 8 | _PACKET:
                yield from _numbers(data[_HEAD.size + _FAMILY.size : length])
            data = data[_aligned(length) :]

    def release(self, packet: int) -> None:
        """Lets it go on."""
        self._send(_VERDICT, _attribute(_VERDICT_HEADER, struct.pack("!II", _ACCEPT, packet)), _REQUEST)

    def _configure(self, body: bytes) -> None:
        self._send(_CONFIG, body, _REQUEST | _ACK)
        (error,) = struct.unpack_from("=i", self._socket.recv(8192), _HEAD.size)
        if error:
            raise OSError(-error, "the kernel has no such queue")

    def _send(self, kind: int, body: bytes, flags: int) -> None:
        body = _FAMILY.pack(0, 0, self._number) + body
        self._socket.send(_HEAD.pack(_HEAD.size + len(body), _SUBSYSTEM << 8 | kind, flags, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _numbers(attributes: bytes) -> Iterator[int]:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _PACKET_HEADER:
            yield struct.unpack_from("!I", attributes, _ATTRIBUTE.size)[0]
        attributes = attributes[_aligned(length) :]


def _aligned(length: int) -> int:
    return length + 3 & ~3


def main() -> None:
    queue, delay = Queue(int(sys.argv[1])), float(sys.argv[2]) / 1000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("ready", flush=True)
    held: collections.deque[tuple[float, int]] = collections.deque()  # (when it is due, packet)
    while True:
        timeout = max(0.0, held[0][0] - time.monotonic()) if held else None
        if select.select([queue], [], [], timeout)[0]:
            due = time.monotonic() + delay
            held.extend((due, packet) for packet in queue.packets())
        while held and held[0][0] <= time.monotonic():
            queue.release(held.popleft()[1])


if __name__ == "__main__":
    main()
