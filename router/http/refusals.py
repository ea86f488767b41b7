"""Requests that come to no endpoint: what is left of them."""

from __future__ import annotations

from starlette.types import Scope

from common.logs import RateLimitedLog
from router.metrics import RouterMetrics
from router.problems import Problem


class Refusals:
    """Counts those of the API's paths, and logs keys that are missing or wrong, for whoever guesses them must be seen.

    Args:
        metrics: counts them.
        warn: takes the lines.
    """

    def __init__(self, metrics: RouterMetrics, warn: RateLimitedLog) -> None:
        self._metrics = metrics
        self._warn = warn

    def note(self, problem: Problem, scope: Scope) -> None:
        """A request that no endpoint accounts for was answered with `problem`."""
        path = scope["path"]
        if problem.status == 401 or path == "/v1" or path.startswith("/v1/"):
            self._metrics.failed.labels(str(problem.status)).inc()
        self.note_key(problem, scope)

    def note_key(self, problem: Problem, scope: Scope) -> None:
        """If `problem` is that the key is missing or wrong."""
        if problem.status != 401:
            return
        client = scope.get("client")
        extra = {"request_id": scope["state"]["request_id"], "client": client[0] if client else None}
        self._warn.warning("401", "401 %s", problem.message, extra=extra)
