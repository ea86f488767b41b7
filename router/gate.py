"""How much the router takes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import OverloadedError, UnavailableError
from router.metrics import RouterMetrics


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
        self.running = 0
        self.draining = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises UnavailableError while the router shuts down, OverloadedError when it is full."""
        if self.draining:
            raise UnavailableError("this router is shutting down")
        if self.running >= self._limit:
            raise OverloadedError(f"{self._limit} requests are in progress, which is as many as this router takes")
        self.running += 1
        self._empty.clear()
        self._metrics.running.set(self.running)
        try:
            yield
        finally:
            self.running -= 1
            self._metrics.running.set(self.running)
            if not self.running:
                self._empty.set()

    async def empty(self) -> None:
        """Waits until nothing is in progress."""
        await self._empty.wait()
