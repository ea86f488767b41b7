"""Threads for work that would hold the event loop up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A bounded number of threads for one kind of work: however slow it is, it keeps only its own kind waiting.

    Args:
        threads: for this kind alone; `close` ends them.
    """

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Work that has not begun when this is cancelled never does."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Drops what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
