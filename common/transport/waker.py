"""Work for a thread that sleeps in a poll: a queue with a file descriptor."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable


class Waker:
    """Calls made from any thread are run by the one that polls `fileno()` and then calls `run`."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        return self._read.fileno()

    def call(self, function: Callable[[], None]) -> None:
        """Has `function` run by the polling thread, in the order of the calls; once closed, nothing is run any more."""
        self._calls.append(function)
        # A full pipe holds a wake-up already; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._write.send(b"\0")

    def run(self) -> None:
        """Runs what was asked for; on the polling thread, after its poll returned."""
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def close(self) -> None:
        self._read.close()
        self._write.close()
