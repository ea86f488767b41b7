"""The router's memory of media it has seen: their sizes, so that a prompt can be built without asking anybody."""

from __future__ import annotations

from collections import OrderedDict

from common.pb import common_pb2

_CAPACITY = 100_000  # some 200 bytes each


class GridMemory:
    """Metadata by media key; the ones not used for longest are forgotten first."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[bytes, common_pb2.MediaMetadata] = OrderedDict()

    def get(self, key: bytes) -> common_pb2.MediaMetadata | None:
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def put(self, key: bytes, metadata: common_pb2.MediaMetadata) -> None:
        self._known[key] = metadata
        self._known.move_to_end(key)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def forget(self, key: bytes) -> None:
        self._known.pop(key, None)
