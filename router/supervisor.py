"""A router of several processes: this one starts the workers, starts those again that die, and ends them all.

Each worker is a whole router with servers, limits and a socket of its own. The kernel spreads connections over the
sockets. These stay with the supervisor, so that what connects while a worker is started again waits for it. The workers
share the names of media and the metrics, by way of a folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

import router
from common.config import write_table
from common.lifecycle import LIFELINE, Shutdown
from common.options import options_of
from common.state import read_state, write_state
from router.config import RouterConfig
from router.listening import address_of, listen_together
from router.services import METRICS

log = logging.getLogger(__name__)

_POLL_S = 0.05
_ROOT = str(Path(router.__file__).parent.parent)  # where our packages lie; the folder we are in is not searched


class Worker:
    """One of the processes.

    Args:
        number: from 1, for messages.
        config: of the router.
        listener: its own.
        shared: the folder.
    """

    def __init__(self, number: int, config: RouterConfig, listener: socket.socket, shared: Path) -> None:
        self._name = f"worker {number}"
        self._listener = listener
        self._shared = shared
        self._config_file = shared / f"worker-{number}.toml"
        self._state_file = shared / f"worker-{number}.json"
        write_table(self._config_file, "router", _table(replace(config, workers=1, state_file=self._state_file)))
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline: int | None = None  # the worker ends when we close it
        self._stopping = False

    async def run(self) -> str:
        """Keeps the process running until `stop`.

        Returns:
            Why it could not; "" if it could.
        """
        while True:
            process = await self._start()
            status = await process.wait()
            mark_process_dead(process.pid, str(self._shared / METRICS))  # type: ignore[no-untyped-call]
            if self._stopping and status == 0:
                return ""
            end = f"{self._name} (process {process.pid}) ended with status {status}"
            if self._stopping or not self.bound:
                return end
            log.error("%s: starting it again", end)

    @property
    def bound(self) -> bool:
        """Whether it serves."""
        return bool(read_state(self._state_file))

    def stop(self) -> None:
        """Asks it to finish its requests and end.

        By closing its lifeline and not by a signal: whoever stops a service may signal all of its processes, and a
        second signal would end the worker at once.
        """
        self._stopping = True
        self._cut_lifeline()

    def _cut_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        self._state_file.unlink(missing_ok=True)
        self._cut_lifeline()
        theirs, self._lifeline = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "router.worker"),
                *("--config", str(self._config_file)),
                *("--listener", str(self._listener.fileno())),
                *("--shared", str(self._shared)),
                env={
                    **os.environ,
                    LIFELINE: str(theirs),
                    "PROMETHEUS_MULTIPROC_DIR": str(self._shared / METRICS),
                    "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
                },
                pass_fds=(self._listener.fileno(), theirs),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )
        finally:
            os.close(theirs)
            if self._stopping:  # meanwhile
                self._cut_lifeline()
        return self._process


async def supervise(config: RouterConfig) -> int:
    """Runs `config.workers` processes until asked to end; returns the exit code.

    Raises:
        OSError: the address is taken or not ours.
    """
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="epd-router-")))
        (shared / METRICS).mkdir()
        listeners = stack.enter_context(listen_together(config.host, config.port, config.workers))
        workers = [Worker(number, config, listener, shared) for number, listener in enumerate(listeners, start=1)]

        def kill() -> None:
            for worker in workers:
                worker.kill()

        shutdown.at_once = kill
        running = [asyncio.create_task(worker.run()) for worker in workers]
        for task in running:
            task.add_done_callback(lambda _: shutdown.request("a worker ended"))
        announcing = asyncio.create_task(_announce(config, workers, address_of(listeners[0])))
        await shutdown.wait()
        announcing.cancel()
        for listener, worker in zip(listeners, workers, strict=True):
            listener.close()  # the worker has its own until it ends; then what connects is refused
            worker.stop()
        failures = list(filter(None, await asyncio.gather(*running)))
    for failure in failures:
        log.error("%s", failure)
    return 1 if failures else 0


async def _announce(config: RouterConfig, workers: list[Worker], address: str) -> None:
    """Says where the router is, once it is there."""
    while True:
        if all(worker.bound for worker in workers):
            break
        await asyncio.sleep(_POLL_S)
    write_state(config.state_file, "router", {"http": address})
    log.info("%d workers listen on http://%s", len(workers), address)


def _table(config: RouterConfig) -> dict[str, list[str]]:
    """A configuration as a file has it."""
    table = {}
    for known in options_of(RouterConfig):
        value = getattr(config, known.field)
        if value != known.default and known.field != "config":
            table[known.key] = [str(one) for one in (value if known.is_list else (value,))]
    return table
