"""How long the stages of a request or a media item took, and when they were."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedStage:
    """One that is over. Times are those of time.monotonic(), which on Linux all processes of a machine share."""

    name: str
    start: float
    end: float
    worked: float | None = None  # seconds, of a stage that paused in between

    @property
    def seconds(self) -> float:
        return self.end - self.start if self.worked is None else self.worked
