"""Where there is something to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.config import ConfigError
from common.state import read_state
from common.transport.address import resolve_all
from deploy.top.scrape import Scrape

ROLES = ("router", "encode", "language")

# A metric that the processes of a role always show, and no others.
_MARKS = {"router": "epd_output_tokens", "encode": "epd_encodes", "language": "epd_engine_steps"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process and where its metrics are."""

    name: str  # how it is shown
    base: str  # URL; the metrics are at /metrics below it
    role: str | None  # None: as its metrics will say


def router_place(url: str) -> Place:
    parts = urlsplit(url)
    return Place(name=parts.netloc + parts.path, base=url, role="router")


def metrics_place(address: str) -> Place:
    return Place(name=address, base=f"http://{address}", role=None)


def places_of(state_file: Path) -> list[Place]:
    """Of the processes that `epd serve`, or a single role, wrote into its state file.

    Raises:
        ConfigError: it is no state file, or nothing in it can be looked at.
    """
    try:
        states = read_state(state_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--state-file: {error}") from None
    found = []
    for state in states:
        at = state.addresses
        if state.role == "router" and "http" in at:
            found.append(router_place(f"http://{at['http']}"))
        elif "metrics" in at:
            name = at.get("grpc", at["metrics"])
            found.append(Place(name=name, base=f"http://{at['metrics']}", role=state.role))
    if not found:
        raise ConfigError(f"--state-file: there is no process with metrics in {state_file}; has it started yet?")
    return found


def once_each(places: Iterable[Place]) -> tuple[Place, ...]:
    """Without those that are named twice; the last name counts."""
    return tuple({place.base: place for place in places}.values())


class Places:
    """All that is to be looked at; a host's name in `metrics` stands for every address that it has at the moment.

    Args:
        places: that stay what they are.
        metrics: "host:port" of metrics.
        timeout: seconds that a look-up of a name may take.
        resolver: see `resolve_all`.
    """

    def __init__(
        self,
        places: Sequence[Place],
        metrics: Sequence[str] = (),
        *,
        timeout: float,
        resolver: Callable[[str], Awaitable[Sequence[str]]] = resolve_all,
    ) -> None:
        self._places = places
        self._metrics = metrics
        self._timeout = timeout
        self._resolve = resolver
        self._last: dict[str, Sequence[str]] = {}  # name -> what it stood for when it was last resolved

    def __bool__(self) -> bool:
        return bool(self._places or self._metrics)

    async def now(self) -> tuple[Place, ...]:
        found = await asyncio.gather(*map(self._behind, self._metrics))
        addresses = [address for addresses in found for address in addresses]
        return once_each([*map(metrics_place, addresses), *self._places])

    async def _behind(self, address: str) -> Sequence[str]:
        """A name that can't be resolved keeps its addresses; one that never could is looked at as it is, and will say
        why there is nothing."""
        try:
            async with asyncio.timeout(self._timeout):
                self._last[address] = await self._resolve(address)
        except OSError:  # also TimeoutError
            pass
        return self._last.get(address, [address])


def role_of(scrape: Scrape) -> str | None:
    """Whose metrics they are; None: not of ours."""
    return next((role for role, mark in _MARKS.items() if mark in scrape.families), None)
