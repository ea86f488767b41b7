"""Looks at all places at once, again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from deploy.remote import explain, printable
from deploy.top.change import Change
from deploy.top.places import Place, Places, role_of
from deploy.top.scrape import Scrape


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One place at one look."""

    place: Place
    role: str | None  # None: nobody knows yet
    trouble: str = ""  # why there is nothing to see
    recent: Change | None = None  # since the last look that had an answer; None: there was none
    total: Change | None = None  # since the process began


@dataclass(frozen=True, kw_only=True)
class RouterView:
    """What a router says beside its metrics."""

    ready: str  # in a word or two
    waiting_for: Sequence[str] = ()
    servers: Sequence[Mapping[str, Any]] = ()
    servers_trouble: str = ""  # why they are not known


@dataclass(frozen=True, kw_only=True)
class Look:
    """All places at one moment."""

    at: float  # seconds since the epoch
    sights: Sequence[Sight]
    routers: Mapping[str, RouterView] = field(default_factory=dict)  # by the name of their place

    @property
    def seconds(self) -> float | None:
        """How far back the latest changes reach."""
        spans = [sight.recent.seconds for sight in self.sights if sight.recent is not None]
        return max((span for span in spans if span is not None), default=None)

    def of(self, role: str) -> list[Sight]:
        return [sight for sight in self.sights if sight.role == role]


class Watch:
    """Args:
    client: for all requests.
    places: to look at.
    headers: with the API key, for routers.
    timeout: seconds that a place has to answer.
    """

    def __init__(self, client: httpx.AsyncClient, places: Places, headers: Mapping[str, str], timeout: float) -> None:
        self._client = client
        self._places = places
        self._headers = headers
        self._timeout = timeout
        self._scrapes: dict[str, Scrape] = {}  # the last ones, by the place's URL

    async def look(self) -> Look:
        """Takes as long as the slowest place."""
        places = await self._places.now()
        routers = [place for place in places if place.role == "router"]
        sights, views = await asyncio.gather(
            asyncio.gather(*(self._sight(place) for place in places)),
            asyncio.gather(*(self._view(place) for place in routers)),
        )
        named = {place.name: view for place, view in zip(routers, views, strict=True) if view is not None}
        return Look(at=time.time(), sights=sights, routers=named)

    async def _sight(self, place: Place) -> Sight:
        before = self._scrapes.get(place.base)
        known = place.role or (role_of(before) if before is not None else None)
        try:
            response = await self._client.get(f"{place.base}/metrics", timeout=self._timeout)
            if response.status_code != httpx.codes.OK:
                return Sight(place=place, role=known, trouble=f"HTTP {response.status_code}")
            after = Scrape.parse(response.text, time.monotonic())
        except httpx.RequestError as error:
            return Sight(place=place, role=known, trouble=printable(explain(error, self._timeout)))
        except ValueError:
            return Sight(place=place, role=known, trouble="what it says are no metrics")
        role = role_of(after)
        if role is None or (place.role is not None and role != place.role):
            wanted = "epd-serve" if place.role is None else f"the role {place.role}"
            return Sight(place=place, role=known, trouble=f"its metrics are not those of {wanted}")
        self._scrapes[place.base] = after
        return Sight(
            place=place,
            role=role,
            recent=Change(before=before, after=after) if before is not None else None,
            total=Change(before=None, after=after),
        )

    async def _view(self, place: Place) -> RouterView | None:
        """None: it does not answer, which its metrics say already."""
        try:
            ready = await self._client.get(f"{place.base}/ready", timeout=self._timeout)
            servers = await self._client.get(f"{place.base}/servers", headers=self._headers, timeout=self._timeout)
        except httpx.RequestError:
            return None
        state, listed = _json(ready), _json(servers).get("servers")
        trouble = ""
        if servers.status_code == httpx.codes.UNAUTHORIZED:
            trouble = "this API key is not valid" if self._headers else "an API key is needed: --api-key-file"
        elif not isinstance(listed, list):
            trouble = f"HTTP {servers.status_code}"
        return RouterView(
            ready="yes" if state.get("ready") is True else "text only" if state.get("text") is True else "NO",
            waiting_for=[printable(str(entry)) for entry in state.get("waiting_for") or ()],
            servers=[entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else [],
            servers_trouble=trouble,
        )


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
