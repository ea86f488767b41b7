"""How much the router takes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.errors import OverloadedError, UnavailableError
from router.metrics import RouterMetrics

_LAST_WORDS_S = 5.0  # for requests that were ended to tell their clients


class Gate:
    """Counts the requests in progress and refuses what is too much.

    Args:
        limit: requests at the same time.
        metrics: shows the count.
    """

    def __init__(self, limit: int, metrics: RouterMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._empty = asyncio.Event()
        self._empty.set()
        self._limits: set[asyncio.Timeout] = set()
        self.draining = False
        self.closed = False  # nobody gets any more time

    @property
    def running(self) -> int:
        return len(self._limits)

    @contextmanager
    def enter(self, limit: asyncio.Timeout) -> Iterator[None]:
        """A request in progress, which `limit` is around: it expires early should the router have to end it.

        Raises:
            UnavailableError: the router shuts down.
            OverloadedError: it is full.
        """
        if self.draining:
            raise UnavailableError("this router is shutting down")
        if self.running >= self._limit:
            raise OverloadedError(f"{self._limit} requests are in progress, which is as many as this router takes")
        self._limits.add(limit)
        self._empty.clear()
        self._metrics.running.set(self.running)
        try:
            yield
        finally:
            self._limits.discard(limit)
            self._metrics.running.set(self.running)
            if not self.running:
                self._empty.set()

    async def drain(self, seconds: float) -> None:
        """Takes nothing new and waits for what is in progress; what is left after `seconds` expires, and is waited for
        a little longer."""
        self.draining = True
        if not await self._is_empty(seconds):
            self.closed = True
            for limit in self._limits:
                if not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())
            await self._is_empty(_LAST_WORDS_S)

    async def _is_empty(self, seconds: float) -> bool:
        """Waits for it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        return self._empty.is_set()
