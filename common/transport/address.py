"""Addresses: what a name stands for; where to bind, what to advertise, and whether that stays on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from common.metrics import split_address


def is_loopback(host: str) -> bool:
    """Whether `host`, a literal or "localhost", is this machine talking to itself. Other names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(host: str) -> str:
    """The first address that `host` stands for; a literal stands for itself.

    Raises:
        OSError: the name is not known.
    """
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


async def resolve_all(address: str) -> list[str]:
    """ "ip:port" of every address that a "host:port" has now; the IPv4 ones if there are any, so that a server which
    listens on both is not met twice.

    Raises:
        OSError: the name can't be resolved.
    """
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    v4 = sorted({str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET})
    v6 = sorted({str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET6})
    return [f"{ip}:{port}" for ip in v4] or [f"[{ip}]:{port}" for ip in v6]


def join(host: str, port: int) -> str:
    """ "host:port", an IPv6 literal in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def advertised(listen: str, advertise: str, port: int) -> str:
    """The address that others connect to.

    Args:
        listen: "host:port" that is bound; the host says on which interface.
        advertise: "host", "host:port", or "" for the listening host; for a server that listens on every interface, the
            address that this machine's own name has, which is right in containers and pods.
        port: that was really bound; it takes the place of a missing one or of port 0.

    Raises:
        ValueError: the server listens on every interface, no host is given to advertise, and this machine's own name
            has no address that others could reach.
    """
    if not advertise:
        host = split_address(listen)[0]
        if host in ("0.0.0.0", "::", "*"):  # noqa: S104  (compared, not bound)
            host = _own_address()
            if is_loopback(host):
                raise ValueError(f"listening on {listen} needs an address to advertise that others can reach")
        return join(host, port)
    if advertise.startswith("[") and advertise.endswith("]"):
        return join(advertise[1:-1], port)
    if advertise.count(":") != 1 and not advertise.startswith("["):
        return join(advertise, port)
    host, given = split_address(advertise)
    return join(host, given or port)


def _own_address() -> str:
    """Of this machine by its own name; loopback if that is all it has."""
    try:
        return resolve(socket.gethostname())
    except OSError:
        return "127.0.0.1"
