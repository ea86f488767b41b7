"""Memory for what clients send: bodies and media of all requests together, within one bound."""

from __future__ import annotations

from prometheus_client import Gauge

from common.errors import OverloadedError


class ByteBudget:
    """Args:
    capacity: bytes that all holds together may have.
    gauge: shows the bytes held.
    """

    def __init__(self, capacity: int, gauge: Gauge) -> None:
        self._capacity = capacity
        self._gauge = gauge
        self._used = 0

    @property
    def used(self) -> int:
        return self._used

    def take(self, count: int) -> None:
        """Raises OverloadedError if there is no room for `count` more."""
        if self._used + count > self._capacity:
            raise OverloadedError("the server holds as much media as it can: try again in a moment")
        self._used += count
        self._gauge.set(self._used)

    def give_back(self, count: int) -> None:
        self._used -= count
        self._gauge.set(self._used)


class Hold:
    """One request's part of the budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises OverloadedError if the budget is used up."""
        self._budget.take(count)
        self._bytes += count

    def remove(self, count: int) -> None:
        self._budget.give_back(count)
        self._bytes -= count

    def release(self) -> None:
        """All of it."""
        self.remove(self._bytes)
