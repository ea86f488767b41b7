"""Media from the router's own disk, from below one folder and from nowhere else."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from common.errors import BadMediaError
from router.media.budget import Hold
from router.threads import Threads

_OUTSIDE = "its file is not in the folder that this server reads from"


class LocalFiles:
    """Reads "file:" URLs (RFC 8089).

    Args:
        root: the folder; None: no files are read.
        timeout: seconds for one file.
        threads: that do nothing else: a network's disk may take them as long as it likes.
    """

    def __init__(self, root: Path | None, *, timeout: float, threads: Threads) -> None:
        self._root = root.resolve() if root is not None else None
        self._timeout = timeout
        self._threads = threads

    async def read(self, url: str, *, limit: int, hold: Hold) -> bytes:
        """The file at `url`, of at most `limit` bytes, which are added to `hold`.

        Raises:
            BadMediaError: there is no such file, or none that may be read.
            OverloadedError: from `hold`.
        """
        root = self._root
        if root is None:
            raise BadMediaError("this server does not read local files (--allowed-local-media-path)")
        try:
            async with asyncio.timeout(self._timeout):
                file, size = await self._threads.run(lambda: _open(root, _path_of(url)))
                with file:
                    if size > limit:
                        raise BadMediaError(f"it has more than the {limit} bytes that are allowed")
                    hold.add(size)
                    body = await self._threads.run(lambda: file.read(size))
        except TimeoutError:
            raise BadMediaError(f"reading its file took longer than {self._timeout:g} s") from None
        except OSError as error:
            raise BadMediaError(f"its file can't be read ({error.strerror})") from None
        hold.remove(size - len(body))  # it may have become shorter meanwhile
        return body


def _path_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise BadMediaError("it is not a valid URL") from None
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise BadMediaError("its URL does not name a file of this machine: file:///folder/image.png")
    if parts.query or parts.fragment:
        raise BadMediaError("its URL has a query or a fragment: ? and # of a file's name are written %3F and %23")
    return path


def _open(root: Path, path: str) -> tuple[BinaryIO, int]:
    """The file and its size. Links are followed as long as they stay below `root`.

    First the links are resolved. Then every step of the way is opened without following any: what changed in
    between fails, and does not lead out.
    """
    try:
        steps = Path(path).resolve().relative_to(root).parts
    except (OSError, RuntimeError, ValueError):  # it is elsewhere, or its links go in circles
        raise BadMediaError(_OUTSIDE) from None
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps[:-1]:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # not to wait for whoever would write into a pipe
        name = steps[-1] if steps else "."
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise BadMediaError("it is not a regular file")
    return os.fdopen(handle, "rb"), state.st_size
