"""How a thread wakes a loop that sleeps in `select`."""

from __future__ import annotations

import contextlib
import os


class Wake:
    """A flag with a file descriptor that is readable while the flag is set (eventfd(2))."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """From any thread."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was not set
            os.eventfd_read(self.fd)
