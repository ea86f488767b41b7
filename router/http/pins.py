"""Header fields by which those who run the system send a request through servers of their choice."""

from __future__ import annotations

from starlette.datastructures import Headers

from router.fleet.fleet import Fleet
from router.fleet.pins import Pins
from router.fleet.pool import Pool, ServerT
from router.problems import Problem

ENCODE = "X-EPD-Encode"
LANGUAGE = "X-EPD-Language"


def pins_of(headers: Headers, fleet: Fleet) -> Pins:
    """The servers that a request names, by their addresses in `GET /servers`.

    Raises:
        Problem: there is no such server (400), or it is not ready (503).
    """
    return Pins(
        encode=_pinned(headers, ENCODE, fleet.encode, fleet), language=_pinned(headers, LANGUAGE, fleet.language, fleet)
    )


def _pinned(headers: Headers, name: str, pool: Pool[ServerT], fleet: Fleet) -> ServerT | None:
    given = headers.getlist(name)
    if not given:
        return None
    address = ", ".join(given)  # two are no address
    server = pool.servers.get(address)
    if server is None:
        raise Problem(400, f"{name}: {address!r} is none of the servers; GET /servers lists them", param=name)
    if obstacle := fleet.obstacle(server):
        raise Problem(503, f"{name}: {obstacle}", param=name)
    return server
