"""The front's end of the engine process: starts it, feeds it commands, hands its events to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from common.errors import InternalError
from common.pb import common_pb2
from common.pb import engine_pb2 as pb
from language_server.engine.arena import Arena
from language_server.engine.options import EngineOptions

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0


class EngineClient:
    """One engine process.

    Args:
        on_events: called on the event loop with what each step brought.
        on_exit: called on the event loop once, when the process ended although nobody had asked it to.
    """

    def __init__(
        self,
        *,
        options: EngineOptions,
        arena: Arena,
        on_events: Callable[[pb.EngineEvents], None],
        on_exit: Callable[[str], None],
        log_level: str = "info",
        log_format: str = "text",
    ) -> None:
        self._options = options
        self._arena = arena
        self._on_events = on_events
        self._on_exit = on_exit
        self._log_options = ["--log-level", log_level, "--log-format", log_format]
        self._commands: queue.SimpleQueue[pb.EngineCommand | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = False
        self._sent = 0
        self._idle = True
        self._heard = time.monotonic()

    @property
    def seconds_without_progress(self) -> float:
        """Since the engine last reported a step, if it has one to make; 0 when it waits for work."""
        return 0.0 if self._idle else time.monotonic() - self._heard

    async def start(self) -> common_pb2.ModelInfo:
        """Starts the process and waits until the model is loaded.

        Raises:
            InternalError: the process ended or said why it can't start.
        """
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "language_server.engine_process"]
        command += ["--socket-fd", str(theirs.fileno()), "--arena-fd", str(self._arena.fd)]
        command += ["--arena-bytes", str(self._arena.size), "--options", self._options.to_json(), *self._log_options]
        self._process = subprocess.Popen(  # noqa: ASYNC220, S603  (its stdio is not ours to await)
            command, pass_fds=(theirs.fileno(), self._arena.fd), stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        try:
            first = await self._loop.run_in_executor(None, self._receive)
            if first is None or first.failed:
                raise InternalError(
                    first.failed if first else "the engine process ended while it was loading the model"
                )
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self._threads = [
            threading.Thread(target=self._read, name="engine events", daemon=True),
            threading.Thread(target=self._write, name="engine commands", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return first.ready

    def send(self, command: pb.EngineCommand) -> None:
        """From any thread; commands keep their order."""
        with self._lock:
            self._sent += 1
            if self._idle:
                self._idle, self._heard = False, time.monotonic()
            self._commands.put(command)

    async def stop(self) -> None:
        """Ends every request with MOVED and then the process; kills it if it does not obey. Once is enough."""
        if self._stopping:
            return
        self._stopping = True
        self._commands.put(pb.EngineCommand(stop=True))
        self._commands.put(None)
        await self._loop.run_in_executor(None, self._join)

    def _join(self) -> None:
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the engine process does not end: killing it")
            self._process.kill()
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # one that waits for a broken device can't even be killed
                self._process.wait(_STOP_SECONDS)
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        self._connection.close()

    def _receive(self) -> pb.EngineEvents | None:
        """The next message, or None when the process has ended."""
        try:
            return pb.EngineEvents.FromString(self._connection.recv_bytes())
        except (EOFError, OSError):
            return None

    def _read(self) -> None:
        while (events := self._receive()) is not None:
            self._loop.call_soon_threadsafe(self._take, events)
        status = self._process.wait()
        if not self._stopping:
            self._loop.call_soon_threadsafe(self._on_exit, f"the engine process ended with status {status}")

    def _take(self, events: pb.EngineEvents) -> None:
        with self._lock:
            self._heard = time.monotonic()
            self._idle = events.idle and events.commands == self._sent
        self._on_events(events)

    def _write(self) -> None:
        try:
            last = False
            while not last:
                waiting = [self._commands.get()]
                while not self._commands.empty():
                    waiting.append(self._commands.get())
                last = waiting[-1] is None
                batch = [command for command in waiting if command is not None]
                self._connection.send_bytes(pb.EngineCommands(commands=batch).SerializeToString())
        except OSError:
            return  # the process has ended; the reader reports it
