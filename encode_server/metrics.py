"""What the encode server counts. The names are part of the outside contract; grafana and the tests read them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.metrics import STAGE_BUCKETS, CacheMetrics, StageMetrics
from common.pb import common_pb2, embedding_pb2
from common.stages import TimedStage
from common.transport.base import Delivery

STAGES = ("receive", "header", "queue", "preprocess", "batch", "vision", "transfer")

_PATCH_BUCKETS = tuple(float(64 << i) for i in range(12))  # 64 patches are a 128 x 128 image
_ITEM_BUCKETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
_POOL = "embeddings"  # what the pool of finished embeddings is called among caches


class EncodeMetrics:
    """Counters and histograms, incremented by their owners; gauges are read when somebody looks (`watch_...`)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests_accepted = Counter("epd_requests_accepted", "Encode streams opened", registry=registry)
        self.requests_finished = Counter("epd_requests_finished", "Encode streams ended well", registry=registry)
        self.requests_failed = Counter(
            "epd_requests_failed", "Encode streams ended by an error", ["code"], registry=registry
        )
        self.requests_aborted = Counter("epd_requests_aborted", "Encode streams whose router left", registry=registry)
        self._running = Gauge("epd_requests_running", "Items being prepared or encoded", registry=registry)
        self._waiting = Gauge("epd_requests_waiting", "Items that wait", registry=registry)
        self._queue_seconds = Gauge("epd_queue_seconds", "Seconds of work in the queue", registry=registry)
        self.batches = Counter("epd_encodes", "Forward passes of the vision tower", registry=registry)
        self.failed_batches = Counter("epd_encodes_failed", "Forward passes that raised", registry=registry)
        self.items = Counter("epd_encode_items", "Media items encoded", registry=registry)
        self.batch_items = Histogram(
            "epd_encode_batch_items", "Items (or cuts of videos) in a batch", buckets=_ITEM_BUCKETS, registry=registry
        )
        self.batch_patches = Histogram(
            "epd_encode_batch_patches", "Patches in a batch", buckets=_PATCH_BUCKETS, registry=registry
        )
        self.batch_seconds = Histogram(
            "epd_encode_batch_seconds", "Time of a forward pass", buckets=STAGE_BUCKETS, registry=registry
        )
        self._stages = StageMetrics(registry, "Time of an item in a stage", STAGES)
        self.pool = CacheMetrics(registry).cache(_POOL)
        self._pins = Gauge("epd_cache_pins", "Entries that can't make room now", ["cache"], registry=registry)
        self._capacity = Gauge("epd_cache_capacity_bytes", "Bytes that there is room for", ["cache"], registry=registry)
        self._transferred = Counter(
            "epd_transfer_bytes", "Embedding bytes shipped and acknowledged", ["transport"], registry=registry
        )
        self.ship_failures = Counter(
            "epd_ship_failures", "Grants that could not be used", ["revoked"], registry=registry
        )
        for revoked in ("true", "false"):  # shown from the start: what appears with its first event has no rate
            self.ship_failures.labels(revoked)

    def watch_load(self, load: Callable[[], common_pb2.Load]) -> None:
        """`load` says what waits and what runs; from any thread."""
        self._running.set_function(lambda: load().running)
        self._waiting.set_function(lambda: load().waiting)
        self._queue_seconds.set_function(lambda: load().queue_seconds)

    def watch_pool(
        self,
        *,
        used_bytes: Callable[[], int],
        entries: Callable[[], int],
        pins: Callable[[], int],
        capacity: int,
    ) -> None:
        """How full the pool of embeddings is; from any thread."""
        self.pool.bytes.set_function(used_bytes)
        self.pool.entries.set_function(entries)
        self._pins.labels(_POOL).set_function(pins)
        self._capacity.labels(_POOL).set(capacity)

    def observe(self, stage: TimedStage) -> None:
        """An item's stage is over."""
        self._stages.observe(stage.name, stage.seconds)

    def count_delivery(self, delivery: Delivery) -> None:
        """A shipment was acknowledged."""
        transport = embedding_pb2.Transport.Name(delivery.transport).lower()
        self._transferred.labels(transport).inc(delivery.payload_bytes)
