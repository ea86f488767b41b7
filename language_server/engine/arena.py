"""The arena: shared memory that the front's receivers write and the engine reads. Only offsets pass between them."""

from __future__ import annotations

import mmap
import os

PAGE_BYTES = mmap.PAGESIZE


class Arena:
    """A memory file of fixed size, mapped. Its pages are touched when they are first used, and then reused."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size)
        self.memory = memoryview(self._map)

    @staticmethod
    def create(size: int) -> Arena:
        """A new one, of whole pages; its `fd` can be handed to a child process.

        Raises:
            ValueError: less than a page.
        """
        size -= size % PAGE_BYTES
        if not size:
            raise ValueError(f"an inbox of less than {PAGE_BYTES} bytes")
        fd = os.memfd_create("epd-arena", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return Arena(fd, size)

    def region(self, offset: int, length: int) -> memoryview:
        assert offset + length <= self.size, f"bytes {offset} to {offset + length} of an arena of {self.size}"
        return self.memory[offset : offset + length]

    def close(self) -> None:
        os.close(self.fd)
