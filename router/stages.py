"""What one request spends its time on in the router: each stage told once, to whoever keeps account of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.tracing import Span
from router.metrics import RouterMetrics


class Stages:
    """Of one request; `span` is the whole of it."""

    def __init__(self, metrics: RouterMetrics, span: Span) -> None:
        self._metrics = metrics
        self.span = span
        self.milliseconds: dict[str, float] = {}  # of the longest stage of each name: media are loaded side by side

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is inside is a stage (`router.metrics.STAGES`). One that fails is in the trace only."""
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.span.stage(name, start, time.monotonic(), error)
            raise
        end = time.monotonic()
        self._metrics.stages.observe(name, end - start)
        self.milliseconds[name] = max(1000 * (end - start), self.milliseconds.get(name, 0.0))
        self.span.stage(name, start, end)
