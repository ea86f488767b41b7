"""Where everything that happens to one request arrives, in order."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """An unbounded queue with one reader, who takes all that is there at once: several tokens cost one wake-up.

    It is bounded by what sends to it: a request has a bounded number of tokens, items and servers.
    """

    def __init__(self) -> None:
        self._messages: list[T] = []
        self._reader: asyncio.Future[None] | None = None

    def post(self, message: T) -> None:
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def take(self) -> list[T]:
        """All messages, at least one."""
        if not self._messages:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        messages, self._messages = self._messages, []
        return messages
