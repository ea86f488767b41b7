"""The pool of embeddings: one buffer, cut into contiguous extents that are used again and again.

    buffer   | extent A | hole | extent B | extent C | hole            |
                 ^                                ^
                 oldest use                       owner says PINNED

Fresh buffers cost three to four times as much as used ones (page faults), so there is exactly one, and it is never
given back. Who may lose its extent is not the pool's business: it asks the owners.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

ALIGNMENT = 64  # of extents, in bytes: a cache line, and what vector copies like


class Hold(IntEnum):
    """How firmly an owner needs its extent."""

    FREE = 0  # anyone may have it
    RESERVED = 1  # somebody waits for it, but could have it made again: only urgent work may have it
    PINNED = 2  # being written or read


class Owner(Protocol):
    """Who an extent belongs to."""

    @property
    def hold(self) -> Hold: ...


OwnerT = TypeVar("OwnerT", bound=Owner)


@dataclass(eq=False, slots=True)
class Extent(Generic[OwnerT]):
    """`size` bytes of the pool from `offset`; a hole when nobody owns it. Neighbours are linked in address order."""

    offset: int
    size: int
    owner: OwnerT | None = None
    before: Extent[OwnerT] | None = None
    after: Extent[OwnerT] | None = None


class EmbeddingCache(Generic[OwnerT]):
    """Hands out extents; makes room by taking those that were used least recently.

    Args:
        buffer: all the memory that embeddings of this server will ever lie in.
        on_evict: told each owner whose extent is taken for another; it must not touch that memory any more.
    """

    def __init__(self, buffer: memoryview, *, on_evict: Callable[[OwnerT], None]) -> None:
        self._buffer = buffer
        self._on_evict = on_evict
        self._holes: set[Extent[OwnerT]] = {Extent(0, len(buffer))}
        self._used: OrderedDict[Extent[OwnerT], None] = OrderedDict()  # least recently used first
        self.used_bytes = 0

    @property
    def capacity(self) -> int:
        return len(self._buffer)

    def fits(self, size: int) -> bool:
        """Whether an extent of `size` bytes can ever be had."""
        return _aligned(size) <= self.capacity

    def __len__(self) -> int:
        """Extents that are owned."""
        return len(self._used)

    @property
    def pins(self) -> int:
        """Extents that nobody can have now; from any thread."""
        owners = [extent.owner for extent in list(self._used)]
        return sum(owner is not None and owner.hold is Hold.PINNED for owner in owners)

    def view(self, extent: Extent[OwnerT]) -> memoryview:
        return self._buffer[extent.offset : extent.offset + extent.size]

    def allocate(self, owner: OwnerT, size: int, *, urgent: bool = False) -> Extent[OwnerT] | None:
        """Contiguous room for `owner`, at the cost of others if need be; None while there is none.

        Of all runs of extents that could go, the one goes whose latest use is the longest ago; nothing goes in vain.

        Args:
            size: bytes at least.
            urgent: RESERVED extents may go too.
        """
        assert size > 0
        assert self.fits(size), (size, self.capacity)
        size = _aligned(size)
        hole = min((hole for hole in self._holes if hole.size >= size), key=lambda hole: hole.offset, default=None)
        if hole is None:
            run = self._run_to_evict(size, Hold.RESERVED if urgent else Hold.FREE)
            if run is None:
                return None
            hole = self._evict(run)
        return self._take(hole, owner, size)

    def touch(self, extent: Extent[OwnerT]) -> None:
        """`extent` was used just now."""
        self._used.move_to_end(extent)

    def release(self, extent: Extent[OwnerT]) -> None:
        """Its owner needs `extent` no more."""
        assert extent in self._used
        self._free(extent)

    def _run_to_evict(self, size: int, hold: Hold) -> list[Extent[OwnerT]] | None:
        """The shortest sufficient run around the least recently used extent that has one, in address order.

        For each candidate, only extents used before it may go with it: so the first candidate that works is the best.
        """
        older: set[Extent[OwnerT]] = set(self._holes)
        for candidate in self._used:
            assert candidate.owner is not None
            if candidate.owner.hold > hold:
                continue
            older.add(candidate)
            run, total = [candidate], candidate.size
            while total < size and (after := run[-1].after) in older and after is not None:
                run.append(after)
                total += after.size
            while total < size and (before := run[0].before) in older and before is not None:
                run.insert(0, before)
                total += before.size
            if total >= size:
                return run
        return None

    def _evict(self, run: list[Extent[OwnerT]]) -> Extent[OwnerT]:
        """Frees a run of neighbours; the hole that it leaves."""
        hole = run[0]
        for extent in run:
            owner = extent.owner
            if owner is None:
                continue  # a hole, which its neighbour swallows
            hole = self._free(extent)
            self._on_evict(owner)
        return hole

    def _take(self, hole: Extent[OwnerT], owner: OwnerT, size: int) -> Extent[OwnerT]:
        """Cuts `size` bytes off the front of `hole`."""
        self._holes.remove(hole)
        if hole.size > size:
            rest = Extent(hole.offset + size, hole.size - size, None, hole, hole.after)
            if hole.after is not None:
                hole.after.before = rest
            hole.after, hole.size = rest, size
            self._holes.add(rest)
        hole.owner = owner
        self._used[hole] = None
        self.used_bytes += size
        return hole

    def _free(self, extent: Extent[OwnerT]) -> Extent[OwnerT]:
        """Makes `extent` a hole, one with the holes beside it."""
        del self._used[extent]
        self.used_bytes -= extent.size
        extent.owner = None
        self._holes.add(extent)
        for left, right in ((extent, extent.after), (extent.before, extent)):
            if left in self._holes and right in self._holes and left is not None and right is not None:
                self._swallow(left, right)
                extent = left
        return extent

    def _swallow(self, left: Extent[OwnerT], right: Extent[OwnerT]) -> None:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        self._holes.remove(right)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
