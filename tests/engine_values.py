"""What metrics show of an engine, by the names that it has for it."""

from __future__ import annotations

from language_server import metrics


def shown_values() -> set[str]:
    """All names; the rest metrics have from elsewhere."""
    caches = (*metrics._CACHE_COUNTERS.values(), *metrics._CACHE_GAUGES.values())
    names = {*metrics._COUNTERS, *metrics._GAUGES, *(name for cache in caches for name in cache.values())}
    return names - {"queue_seconds", "prefix_bytes", "prefix_capacity_bytes"} | {"kv_block_bytes"}
