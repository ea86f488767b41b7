"""How a service ends: the first SIGTERM or SIGINT asks it to, the second does not ask.

    async def serve(config: EncodeConfig) -> int:
        with Shutdown() as shutdown:
            ...                      # bind, write the state file, become ready
            await shutdown.wait()
            ...                      # unready, drain
        return 0

A server that `epd serve` started also ends when its parent is gone, even if the parent was killed: it holds the read
end of a pipe (the lifeline) whose write end nobody but the parent has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)

LIFELINE = "EPD_LIFELINE_FD"  # environment variable: number of the inherited pipe
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Wakes the service when it has to end. Made and entered inside the running loop, on the main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        # Taken out of the environment: the number means nothing to processes that this one starts.
        lifeline = os.environ.pop(LIFELINE, None)
        self._lifeline = int(lifeline) if lifeline else None
        self.reason = ""
        self.at_once: Callable[[], None] = lambda: (
            None
        )  # before a second signal ends the process: to take children along

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        """Returns once the service has to end."""
        await self._event.wait()

    def request(self, reason: str) -> None:
        """Asks for the end from inside, say because the engine process died; the first reason is kept."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def __enter__(self) -> Shutdown:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, number)
        if self._lifeline is not None:
            self._loop.add_reader(self._lifeline, self._on_parent_gone)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)
        if self._lifeline is not None:
            self._loop.remove_reader(self._lifeline)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.requested:
            log.warning("%s again: ending at once", number.name)
            self.at_once()
            os._exit(128 + number)
        log.info("%s: shutting down (once more ends at once)", number.name)
        self.request(number.name)

    def _on_parent_gone(self) -> None:
        assert self._lifeline is not None
        self._loop.remove_reader(self._lifeline)
        log.warning("the parent process is gone: shutting down")
        self.request("parent process gone")
