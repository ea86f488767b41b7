from __future__ import annotations

from prometheus_client import CollectorRegistry

from common.metrics import CacheMetrics
from common.pb import common_pb2
from router.media.grids import GridMemory


def test_grid_memory_forgets_the_longest_unused() -> None:
    registry = CollectorRegistry()
    memory = GridMemory(CacheMetrics(registry).cache("grid"), capacity=2)
    for key in (b"a", b"b"):
        memory.put(key, common_pb2.MediaMetadata(rows=ord(key)))
    assert memory.get(b"a") is not None
    memory.put(b"c", common_pb2.MediaMetadata(rows=3))
    assert memory.get(b"b") is None
    assert memory.get(b"a") is not None
    memory.forget(b"a")
    assert memory.get(b"a") is None
    counted = {
        name: registry.get_sample_value(f"epd_cache_{name}", {"cache": "grid"})
        for name in ("hits_total", "misses_total", "evictions_total", "entries", "bytes")
    }
    assert counted == {"hits_total": 2, "misses_total": 2, "evictions_total": 1, "entries": 1, "bytes": 1 + 2}
