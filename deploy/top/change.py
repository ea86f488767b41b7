"""What happened between two scrapes of one endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deploy.top.histogram import Histogram
from deploy.top.scrape import Scrape


@dataclass(frozen=True, kw_only=True)
class Change:
    """`before` is None for all that happened since the process began.

    A process that was restarted in between has counted from 0 again: what it counted since then is what is known.
    """

    before: Scrape | None
    after: Scrape

    @property
    def seconds(self) -> float | None:
        return self.after.at - self.before.at if self.before is not None else None

    @cached_property
    def restarted(self) -> bool:
        """Whether a counter went back, which happens to all of a process at once."""
        if self.before is None:
            return False
        for name in self.before.growing:
            earlier, later = self.before.samples[name], self.after.samples.get(name, {})
            if any(later.get(labels, 0.0) < value for labels, value in earlier.items()):
                return True
        return False

    def increase(self, name: str, **labels: str) -> float:
        """Of all series of a counter that have these labels."""
        now = sum(self.after.series(name, labels).values())
        if self.before is None or self.restarted:
            return now
        return now - sum(self.before.series(name, labels).values())

    def rate(self, name: str, **labels: str) -> float | None:
        """A second; None if there is nothing to compare with."""
        return self.increase(name, **labels) / self.seconds if self.seconds else None

    def share(self, part: str, rest: str, **labels: str) -> float | None:
        """Of one counter in two together, hits among look-ups; None without any."""
        hits, misses = self.increase(part, **labels), self.increase(rest, **labels)
        return hits / (hits + misses) if hits + misses > 0 else None

    def histogram(self, name: str, **labels: str) -> Histogram:
        """Of the observations that were made."""
        bucket = f"{name}_bucket"
        return Histogram(
            {float(bound): self.increase(bucket, le=bound, **labels) for bound in self.after.values_of(bucket, "le")}
        )
