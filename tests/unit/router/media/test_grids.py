from __future__ import annotations

from common.pb import common_pb2
from router.media.grids import GridMemory


def test_grid_memory_forgets_the_longest_unused() -> None:
    memory = GridMemory(capacity=2)
    for key in (b"a", b"b"):
        memory.put(key, common_pb2.MediaMetadata(rows=ord(key)))
    assert memory.get(b"a") is not None
    memory.put(b"c", common_pb2.MediaMetadata(rows=3))
    assert memory.get(b"b") is None
    assert memory.get(b"a") is not None
    memory.forget(b"a")
    assert memory.get(b"a") is None
