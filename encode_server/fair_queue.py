"""A queue in which requests take turns, so that one with many or large items does not hold up the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each request; round-robin between them."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, list[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[T]:
        """Every entry: all of the request whose turn it is, then all of the next."""
        for entries in self._turns.values():
            yield from entries

    def push(self, request_id: str, entry: T) -> None:
        self._turns.setdefault(request_id, []).append(entry)

    def heads(self) -> list[tuple[str, T]]:
        """The first entry of each request, the one whose turn it is first."""
        return [(request_id, entries[0]) for request_id, entries in self._turns.items()]

    def take(self, request_id: str, entry: T) -> None:
        """Removes `entry` as served: the request goes to the end of the line."""
        self.remove(request_id, entry)
        if request_id in self._turns:
            self._turns.move_to_end(request_id)

    def remove(self, request_id: str, entry: T) -> None:
        """Removes `entry` as no longer wanted: turns stay as they are. ValueError if it is not in the queue."""
        entries = self._turns.get(request_id, [])
        entries.remove(entry)
        if not entries:
            del self._turns[request_id]
