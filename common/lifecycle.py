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
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol

from common.errors import EPDError
from common.state import write_state
from common.tracing import OFF, Tracing

log = logging.getLogger(__name__)

LIFELINE = "EPD_LIFELINE_FD"  # environment variable: number of the inherited pipe
FAILED_STOP_SECONDS = 30.0  # for a server that can't go on, to end in order
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
        self._signalled = False
        # Called before a second signal ends the process: to take children along.
        self.at_once: Callable[[], None] = lambda: None

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
        if self._signalled:
            log.warning("%s again: ending at once", number.name)
            self.at_once()
            os._exit(128 + number)
        log.info("%s: shutting down (once more ends at once)", number.name)
        self._signalled = True
        self.request(number.name)

    def _on_parent_gone(self) -> None:
        assert self._lifeline is not None
        self._loop.remove_reader(self._lifeline)
        log.info("the parent process is gone or has let go: shutting down")
        self.request("parent process gone")


class Server(Protocol):
    """What has a beginning and an end."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """By name, as in the state file; complete after `start`."""

    async def start(self) -> None: ...

    async def stop(self, drain_seconds: float) -> None: ...


class ServerConfig(Protocol):
    @property
    def state_file(self) -> Path | None: ...

    @property
    def drain_seconds(self) -> float: ...


async def run_server(
    role: str, server: Server, failure: asyncio.Future[str], config: ServerConfig, tracing: Tracing = OFF
) -> int:
    """A server's whole life: start, state file, wait, drain.

    Args:
        role: in the state file.
        server: not started yet.
        failure: set, with the reason, by a server that can't go on.
        config: where the state file lies, and how long work may go on after SIGTERM.
        tracing: of this process; closed at the end.

    Returns:
        The process's exit status. If the server can't go on, there is no return: see `give_up`.
    """
    with Shutdown() as shutdown:
        failure.add_done_callback(lambda reason: shutdown.request(reason.result()))
        try:
            await _start(server, shutdown)
        except (EPDError, OSError, ValueError) as error:
            log.error("can't start: %s", error)
            return 1
        write_state(config.state_file, role, server.addresses)
        log.info("serving %s", ", ".join(f"{name} at {address}" for name, address in server.addresses.items()))
        await shutdown.wait()
        if not failure.done():
            await server.stop(config.drain_seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.stop(0.0), FAILED_STOP_SECONDS)
    await asyncio.to_thread(tracing.close)
    if failure.done():
        give_up(failure.result())
    return 0


def give_up(reason: str) -> NoReturn:
    """Ends the process with status 1, for its supervisor to start it anew.

    What failed may have left a thread that never returns, and the interpreter would wait for it.
    """
    log.error("can't go on: %s", reason)
    logging.shutdown()
    os._exit(1)


async def _start(server: Server, shutdown: Shutdown) -> None:
    """Starts the server. If the process is to end before that is done, it does so here, with status 0."""
    starting = asyncio.create_task(server.start())
    waiting = asyncio.create_task(shutdown.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if starting.done():
        return await starting
    starting.cancel()
    await asyncio.wait((starting,))
    # A thread that loads weights can't be stopped, and the interpreter would wait for it. There is nothing to lose.
    logging.shutdown()
    os._exit(0)
