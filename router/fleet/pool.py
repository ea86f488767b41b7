"""The servers of one role: who they are, and which of them gets the work."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, TypeVar

import xxhash

from common.transport.address import resolve_all
from router.fleet.servers import Server

log = logging.getLogger(__name__)

ServerT = TypeVar("ServerT", bound=Server)

# A server may carry this much more than the mean before work with an affinity to it goes elsewhere (Mirrokni et al.,
# "Consistent Hashing with Bounded Loads", 2016).
_BOUND = 1.25


def choose(servers: Sequence[ServerT], key: bytes, load: Callable[[ServerT], float], slack: float) -> ServerT:
    """Rendezvous hashing with bounded loads: equal keys meet at one server, unless it is too busy.

    Every router that sees the same servers and loads chooses alike, and a server that comes or goes moves only its own
    share of the keys.

    Args:
        servers: at least one.
        key: what should meet again (a media key; the beginning of a conversation).
        load: of a server, in any unit; one that is no number counts as infinite.
        slack: load in the same unit that never counts as too busy.
    """
    loads = [carried if (carried := load(server)) >= 0 else math.inf for server in servers]
    finite = [carried for carried in loads if carried < math.inf]
    bound = _BOUND * sum(finite) / len(finite) + slack if finite else math.inf
    fit = [server for server, carried in zip(servers, loads, strict=True) if carried <= bound]
    return max(fit, key=lambda server: xxhash.xxh3_64_intdigest(server.address.encode() + b"\0" + key))


class Pool(Generic[ServerT]):
    """All servers of a role, kept up to date with the DNS.

    Args:
        addresses: "host:port"; a name stands for all its addresses.
        make: a server at an "ip:port".
        interval: seconds between two look-ups.
        resolver: see `resolve_all`.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        make: Callable[[str], ServerT],
        *,
        interval: float,
        resolver: Callable[[str], Awaitable[list[str]]] = resolve_all,
    ) -> None:
        self._addresses = addresses
        self._make = make
        self._interval = interval
        self._resolve = resolver
        self.servers: dict[str, ServerT] = {}
        self.unresolved: dict[str, str] = {}  # name -> why
        self._last: dict[str, list[str]] = {}  # name -> what it stood for when it was last resolved

    def ready(self, avoid: Collection[ServerT] = (), pin: ServerT | None = None) -> list[ServerT]:
        """Those that take something new, or of these only `pin`."""
        servers = self.servers.values() if pin is None else (pin,)
        return [server for server in servers if server.ready and server not in avoid]

    def nobody(self, role: str) -> str:
        """Why there is no server and no name without one."""
        return f"the {role} servers are not yet reached" if self._addresses else f"no {role} server is configured"

    async def run(self) -> None:
        """Resolves and watches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._update(tasks)
                await asyncio.sleep(self._interval)

    async def _update(self, tasks: asyncio.TaskGroup) -> None:
        for address in self._addresses:
            try:
                self._last[address] = await self._resolve(address)
                self.unresolved.pop(address, None)
            except OSError as error:
                if address not in self.unresolved:
                    log.warning("can't resolve %s: %s", address, error.strerror or error)
                # That says nothing about the servers which it had.
                self.unresolved[address] = f"{address} can't be resolved"
        found = {address for addresses in self._last.values() for address in addresses}
        for address in found - self.servers.keys():
            server = self.servers[address] = self._make(address)
            tasks.create_task(self._watch(server), name=str(server))
        for address in self.servers.keys() - found:
            if not self.servers[address].removed:
                log.info("%s is no longer among the addresses", self.servers[address])
            self.servers[address].removed = True
        for address in found:
            self.servers[address].removed = False

    async def _watch(self, server: ServerT) -> None:
        await server.run()
        del self.servers[server.address]
