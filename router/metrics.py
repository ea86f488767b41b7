"""The router's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from common.metrics import STAGE_BUCKETS, CacheMetrics, StageMetrics

STAGES = ("body", "parse", "template", "fetch", "hash", "size", "tokenize", "grammar")

# Values of labels that are shown from the start: a series that appears with its first event has no rate, so that no
# alert would tell of it.
_FAULTS = ("500", "503", "504")
_RETRIES = ("encode", "language")
_MIGRATIONS = ("death", "moved")
_TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_ALIASES = "alias"  # the cache that all processes of a router have in common


class RouterMetrics:
    """All of them, in a registry of their own.

    Args:
        shared: the folder in which the processes of a router count together, which prometheus_client has to know from
            PROMETHEUS_MULTIPROC_DIR as well; None: there is one process.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")

        self.accepted = counter("epd_requests_accepted", "Requests that a language server admitted.")
        self.finished = counter("epd_requests_finished", "Requests answered in full.")
        self.failed = counter("epd_requests_failed", "Requests that ended in an error.", "status")
        self.aborted = counter("epd_requests_aborted", "Requests whose client left.")
        self.running = gauge("epd_requests_running", "Requests in progress.")
        self.media_bytes = gauge("epd_media_bytes", "Bodies and media held.")
        self.retries = counter("epd_retries", "Attempts after the first.", "what")
        self.migrations = counter("epd_migrations", "Requests that went on at another language server.", "cause")
        self.ignored_fields = counter("epd_ignored_fields", "Unknown request fields.")
        self.prompt_tokens = counter("epd_prompt_tokens", "Tokens of admitted prompts.")
        self.output_tokens = counter("epd_output_tokens", "Tokens of answers.")
        self.stages = StageMetrics(self.registry, "Time of a request's stages in the router.", STAGES)
        self.request = histogram(
            "epd_request_seconds", "From a request's head to its end.", STAGE_BUCKETS, "endpoint", "outcome"
        )
        self.first_token = histogram("epd_time_to_first_token_seconds", "From request to first token.", STAGE_BUCKETS)
        self.inter_token = histogram("epd_inter_token_seconds", "Between a request's tokens.", _TOKEN_BUCKETS)
        for metric, values in ((self.failed, _FAULTS), (self.retries, _RETRIES), (self.migrations, _MIGRATIONS)):
            for value in values:
                metric.labels(value)
        caches = CacheMetrics(self.registry)
        self.grids = caches.cache("grid")
        self.aliases = caches.cache(_ALIASES)

    def exposition(self) -> bytes:
        """As Prometheus reads it; of all processes together."""
        if self._shared is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        together.register(_Together(self.registry, self._shared))
        return generate_latest(together)


class _Together(Collector):
    """What all processes have counted; what they have in common is not added up."""

    def __init__(self, ours: CollectorRegistry, shared: Path) -> None:
        self._ours = ours
        self._all = MultiProcessCollector(None, str(shared))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():  # type: ignore[no-untyped-call]
            if metric.type == "gauge":
                metric.samples = [
                    sample._replace(value=self._ours.get_sample_value(sample.name, sample.labels) or 0.0)
                    if sample.labels.get("cache") == _ALIASES
                    else sample
                    for sample in metric.samples
                ]
            yield metric
