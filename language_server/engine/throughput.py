"""How fast prefill goes, and so how long what waits will take."""

from __future__ import annotations

from language_server.engine.scheduler import Schedule


class Throughput:
    """Prefill tokens a second, as a moving average over the time that prefill takes."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, schedule: Schedule, seconds: float) -> None:
        """A step's prefill tokens and their share of its time."""
        tokens = sum(chunk.length for chunk in schedule.chunks)
        prefill = sum(chunk.length for chunk in schedule.chunks if not chunk.is_decode)
        if prefill:
            keep = 0.9
            self._tokens = self._tokens * keep + prefill
            self._seconds = self._seconds * keep + seconds * prefill / tokens

    def seconds(self, tokens: int) -> float:
        """How long `tokens` will take; 0 before anything was measured."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0
