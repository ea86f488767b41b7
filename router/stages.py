"""What one request spends its time on in the router: each stage told once, to whoever keeps account of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from router.metrics import RouterMetrics


class Stages:
    """Of one request."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics
        self.milliseconds: dict[str, float] = {}  # of the longest stage of each name: media are loaded side by side

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is inside is a stage (`router.metrics.STAGES`), if it succeeds."""
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self._metrics.stages.observe(name, seconds)
        self.milliseconds[name] = max(1000 * seconds, self.milliseconds.get(name, 0.0))
