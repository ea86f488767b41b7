"""How long items that requests need wait for room in the inbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from common.media_key import MediaKey


class GrantStalls:
    """Told again and again which items wait; in between, they wait on.

    Attributes:
        count: items that had to wait, since the start; one that lost its room again counts again.
        seconds: that they have waited, all together, up to the last `update`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: frozenset[MediaKey] = frozenset()
        self._updated_at = 0.0
        self.count = 0
        self.seconds = 0.0

    @property
    def waiting(self) -> int:
        """Items that wait now."""
        return len(self._waiting)

    def update(self, waiting: Collection[MediaKey]) -> None:
        """`waiting`: needed items without room."""
        if not waiting and not self._waiting:  # nearly always
            return
        now = self._clock()
        self.seconds += len(self._waiting) * (now - self._updated_at)
        self.count += sum(key not in self._waiting for key in waiting)
        self._waiting, self._updated_at = frozenset(waiting), now
