"""The sockets on which clients connect."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_BACKLOG = 2048


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket at an address.

    Args:
        host: to listen on.
        port: 0 takes a free one.
        shared: others may listen there too; the kernel spreads connections over them.

    Raises:
        OSError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    # Connections inherit it. asyncio sets it only where a socket says that it is TCP, which those of Python do not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextmanager
def listen_together(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """As many sockets at one address. Raises OSError as `listen`, also if it is taken by others who share it."""
    with ExitStack() as stack:
        if port:
            listen(host, port).close()
        sockets = [stack.enter_context(listen(host, port, shared=True))]
        port = sockets[0].getsockname()[1]
        sockets += [stack.enter_context(listen(host, port, shared=True)) for _ in range(count - 1)]
        yield sockets


def address_of(listener: socket.socket) -> str:
    """As "host:port"."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
