"""What the language server shows to Prometheus: the engine's counters as it last reported them, stages and steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.metrics import StageMetrics
from common.pb import common_pb2, engine_pb2

STAGES = ("queue", "grammar", "inbox", "prefill", "decode")

_STEP_TOKEN_BUCKETS = tuple(float(1 << i) for i in range(15))
_STEP_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)

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
    "grant_stalls": ("epd_grant_stalls", "Media items that had to wait for room in the inbox."),
    "grant_stall_seconds": ("epd_grant_stall_seconds", "Time that they have waited for it, all together."),
    "inbox_stolen": ("epd_grants_stolen", "Grants that were taken back because an older request needed the room."),
}
_GAUGES = {
    "running": ("epd_requests_running", "Requests that hold a place in the batch."),
    "waiting": ("epd_requests_waiting", "Requests that wait for one."),
    "kv_blocks_used": ("epd_kv_blocks_used", "KV blocks held by requests."),
    "kv_blocks": ("epd_kv_blocks", "KV blocks in all."),
    "inbox_bytes": ("epd_inbox_bytes", "Embeddings on their way, or not yet computed by the requests that need them."),
    "grants_stalled": ("epd_grants_stalled", "Media items that wait for room in the inbox now."),
    "queue_seconds": ("epd_queue_seconds", "Work that waits, at the measured speed."),
}
# Metrics with the label `cache`: cache -> the engine's name for its value.
_CACHE_COUNTERS = {
    "epd_cache_hits": {"prefix": "prefix_hits", "inbox": "inbox_hits", "grammar": "grammar_hits"},
    "epd_cache_misses": {"prefix": "prefix_misses", "inbox": "inbox_misses", "grammar": "grammar_misses"},
    "epd_cache_evictions": {"prefix": "kv_evictions", "inbox": "inbox_evictions", "grammar": "grammar_evictions"},
}
_CACHE_GAUGES = {
    "epd_cache_bytes": {"prefix": "prefix_bytes", "inbox": "inbox_cached_bytes", "grammar": "grammar_bytes"},
    "epd_cache_capacity_bytes": {"prefix": "prefix_capacity_bytes", "inbox": "inbox_capacity_bytes"},
    "epd_cache_entries": {"prefix": "prefix_entries", "inbox": "inbox_entries", "grammar": "grammar_entries"},
    "epd_cache_pins": {"inbox": "inbox_pins"},
}
_CACHE_HELP = {
    "epd_cache_hits": "Look-ups that found something.",
    "epd_cache_misses": "Look-ups that found nothing.",
    "epd_cache_evictions": "Entries that made room for others.",
    "epd_cache_bytes": "Bytes held, needed or not.",
    "epd_cache_capacity_bytes": "Bytes that there is room for.",
    "epd_cache_entries": "Entries held, needed or not.",
    "epd_cache_pins": "Entries that an unfinished request needs.",
}


class LanguageMetrics(Collector):
    """Metrics of one language server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = StageMetrics(self.registry, "Time of a request's stages.", STAGES)
        self._step_tokens = Histogram(
            "epd_step_tokens",
            "Tokens of a forward pass, prefill and decode.",
            buckets=_STEP_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "epd_step_seconds", "Time of a forward pass.", buckets=_STEP_SECONDS_BUCKETS, registry=self.registry
        )
        self._values: Mapping[str, float] = {}
        self.registry.register(self)

    def update(self, events: engine_pb2.EngineEvents) -> None:
        """Takes over what a step reported."""
        self._values = {**events.stats.values, "queue_seconds": events.events.load.queue_seconds}
        if events.HasField("step"):
            self._step_tokens.observe(events.step.tokens)
            self._step_seconds.observe(events.step.seconds)
        for finished in events.events.finished:
            self.observe(finished.times)

    def observe(self, times: Iterable[common_pb2.StageTime]) -> None:
        for time in times:
            self._stages.observe(time.stage, time.milliseconds / 1000)

    def collect(self) -> Iterator[Metric]:
        values = self._values
        block_bytes = values.get("kv_block_bytes", 0.0)
        values = {
            **values,
            "prefix_bytes": block_bytes * values.get("prefix_entries", 0.0),
            "prefix_capacity_bytes": block_bytes * values.get("kv_blocks", 0.0),
        }
        for key, (name, help_text) in _COUNTERS.items():
            yield CounterMetricFamily(name, help_text, value=values.get(key, 0.0))
        for key, (name, help_text) in _GAUGES.items():
            yield GaugeMetricFamily(name, help_text, value=values.get(key, 0.0))
        for family, groups in ((CounterMetricFamily, _CACHE_COUNTERS), (GaugeMetricFamily, _CACHE_GAUGES)):
            for name, keys in groups.items():
                metric = family(name, _CACHE_HELP[name], labels=["cache"])
                for cache, key in keys.items():
                    metric.add_metric([cache], values.get(key, 0.0))
                yield metric
