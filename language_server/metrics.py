"""What the language server shows to Prometheus: the engine's counters as it last reported them, and stage times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.metrics import STAGE_BUCKETS
from common.pb import common_pb2, engine_pb2

_COUNTERS = {
    "accepted": ("epd_requests_accepted", "Requests admitted."),
    "finished": ("epd_requests_finished", "Requests that ended in an answer."),
    "failed": ("epd_requests_failed", "Requests that ended in an error."),
    "aborted": ("epd_requests_aborted", "Requests that their caller gave up."),
    "steps": ("epd_engine_steps", "Forward passes."),
    "prefill_tokens": ("epd_prefill_tokens", "Prompt tokens computed."),
    "decode_tokens": ("epd_decode_tokens", "Output tokens computed; over epd_decode_steps_total: the mean batch."),
    "decode_steps": ("epd_decode_steps", "Forward passes with at least one decoding request."),
    "preemptions": ("epd_preemptions", "Requests whose KV blocks were taken for an older one."),
    "grammars": ("epd_grammars_compiled", "Grammars compiled."),
    "grammar_compile_seconds": ("epd_grammar_compile_seconds", "Time to compile them, beside the steps."),
    "grammar_mask_seconds": (
        "epd_grammar_mask_seconds",
        "Time to find out which tokens they allow, beside the forward.",
    ),
    "grammar_wait_seconds": ("epd_grammar_wait_seconds", "Time that steps waited for that after the forward."),
    "cached_tokens": ("epd_prefix_cached_tokens", "Prompt tokens that the prefix cache had."),
}
_GAUGES = {
    "running": ("epd_requests_running", "Requests that hold a place in the batch."),
    "waiting": ("epd_requests_waiting", "Requests that wait for one."),
    "kv_blocks_used": ("epd_kv_blocks_used", "KV blocks held by requests."),
    "kv_blocks": ("epd_kv_blocks", "KV blocks in all."),
    "inbox_bytes": ("epd_inbox_bytes", "Embeddings on their way, or not yet computed by the requests that need them."),
    "prefix_cached_blocks": ("epd_prefix_cached_blocks", "KV blocks that the prefix cache knows."),
    "queue_seconds": ("epd_queue_seconds", "Work that waits, at the measured speed."),
}
_CACHES = {  # cache -> (hits, misses, evictions)
    "prefix": ("prefix_hits", "prefix_misses", "kv_evictions"),
    "inbox": ("inbox_hits", "inbox_misses", "inbox_evictions"),
    "grammar": ("grammar_hits", "grammar_misses", "grammar_evictions"),
}


class LanguageMetrics(Collector):
    """Metrics of one language server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = Histogram(
            "epd_stage_seconds",
            "Time of a request's stages.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._values: Mapping[str, float] = {}
        self.registry.register(self)

    def update(self, events: engine_pb2.EngineEvents) -> None:
        """Takes over what a step reported."""
        self._values = {**events.stats.values, "queue_seconds": events.events.load.queue_seconds}
        for finished in events.events.finished:
            self.observe(finished.times)

    def observe(self, times: Iterable[common_pb2.StageTime]) -> None:
        for time in times:
            self._stages.labels(time.stage).observe(time.milliseconds / 1000)

    def collect(self) -> Iterator[Metric]:
        values = self._values
        for key, (name, help_text) in _COUNTERS.items():
            yield CounterMetricFamily(name, help_text, value=values.get(key, 0.0))
        for key, (name, help_text) in _GAUGES.items():
            yield GaugeMetricFamily(name, help_text, value=values.get(key, 0.0))
        held = GaugeMetricFamily("epd_cache_bytes", "Held, needed or not.", labels=["cache"])
        held.add_metric(["inbox"], values.get("inbox_cached_bytes", 0.0))
        yield held
        pins = GaugeMetricFamily("epd_cache_pins", "Entries that an unfinished request needs.", labels=["cache"])
        pins.add_metric(["inbox"], values.get("inbox_pins", 0.0))
        yield pins
        outcomes = ("epd_cache_hits", "epd_cache_misses", "epd_cache_evictions")
        for place, name in enumerate(outcomes):
            family = CounterMetricFamily(name, "Look-ups by cache.", labels=["cache"])
            for cache, keys in _CACHES.items():
                family.add_metric([cache], values.get(keys[place], 0.0))
            yield family
