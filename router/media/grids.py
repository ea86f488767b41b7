"""The router's memory of media it has seen: their sizes, so that a prompt can be built without asking anybody."""

from __future__ import annotations

from collections import OrderedDict

from common.metrics import Cache
from common.pb import common_pb2

_CAPACITY = 100_000  # some 200 bytes each


class GridMemory:
    """Metadata by media key; the ones not used for longest are forgotten first.

    Args:
        metrics: of this cache; its bytes are those of keys and metadata as they go over the wire.
        capacity: items.
    """

    def __init__(self, metrics: Cache, capacity: int = _CAPACITY) -> None:
        self._metrics = metrics
        self._capacity = capacity
        self._bytes = 0
        self._known: OrderedDict[bytes, common_pb2.MediaMetadata] = OrderedDict()

    def get(self, key: bytes) -> common_pb2.MediaMetadata | None:
        known = self._known.get(key)
        if known is None:
            self._metrics.misses.inc()
        else:
            self._metrics.hits.inc()
            self._known.move_to_end(key)
        return known

    def put(self, key: bytes, metadata: common_pb2.MediaMetadata) -> None:
        self._drop(key)
        self._known[key] = metadata
        self._bytes += _size(key, metadata)
        if len(self._known) > self._capacity:
            self._drop(next(iter(self._known)))
            self._metrics.evictions.inc()
        self._show()

    def forget(self, key: bytes) -> None:
        self._drop(key)
        self._show()

    def _drop(self, key: bytes) -> None:
        if (metadata := self._known.pop(key, None)) is not None:
            self._bytes -= _size(key, metadata)

    def _show(self) -> None:
        self._metrics.bytes.set(self._bytes)
        self._metrics.entries.set(len(self._known))


def _size(key: bytes, metadata: common_pb2.MediaMetadata) -> int:
    return len(key) + metadata.ByteSize()
