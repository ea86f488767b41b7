"""What the encode server counts. The names are part of the outside contract; grafana and the tests read them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.metrics import STAGE_BUCKETS

_PATCH_BUCKETS = tuple(float(64 << i) for i in range(12))  # 64 patches are a 128 x 128 image
_ITEM_BUCKETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


class EncodeMetrics:
    """Counters and histograms, incremented by their owners; gauges are read when somebody looks (`watch`)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests_accepted = Counter("epd_requests_accepted", "Encode streams opened", registry=registry)
        self.requests_finished = Counter("epd_requests_finished", "Encode streams ended well", registry=registry)
        self.requests_failed = Counter(
            "epd_requests_failed", "Encode streams ended by an error", ["code"], registry=registry
        )
        self.requests_aborted = Counter("epd_requests_aborted", "Encode streams whose router left", registry=registry)
        self.batches = Counter("epd_encodes", "Forward passes of the vision tower", registry=registry)
        self.failed_batches = Counter("epd_encodes_failed", "Forward passes that raised", registry=registry)
        self.items = Counter("epd_encode_items", "Media items encoded", registry=registry)
        self.batch_items = Histogram(
            "epd_encode_batch_items", "Items (or cuts of videos) in a batch", buckets=_ITEM_BUCKETS, registry=registry
        )
        self.batch_patches = Histogram(
            "epd_encode_batch_patches", "Patches in a batch", buckets=_PATCH_BUCKETS, registry=registry
        )
        self.stage_seconds = Histogram(
            "epd_stage_seconds", "Time of an item in a stage", ["stage"], buckets=STAGE_BUCKETS, registry=registry
        )
        self.cache_hits = Counter("epd_cache_hits", "Items that were there already", ["cache"], registry=registry)
        self.cache_misses = Counter("epd_cache_misses", "Items that had to be made", ["cache"], registry=registry)
        self.evictions = Counter("epd_cache_evictions", "Items that made room", ["cache"], registry=registry)
        self.transfer_bytes = Counter(
            "epd_transfer_bytes", "Embedding bytes shipped and acknowledged", ["transport"], registry=registry
        )
        self.ship_failures = Counter(
            "epd_ship_failures", "Grants that could not be used", ["revoked"], registry=registry
        )

    def watch(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge whose value is what `read` returns."""
        Gauge(name, help, registry=self.registry).set_function(read)
