"""Clients' own names (`uuid`) for media that they have sent, so that they need not send them again.

A name is good for whoever holds the same API key. It stands for an item and not for its bytes, which the router does
not keep: an item without content can be used as long as a server still holds its embedding.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from common.metrics import Cache
from common.pb import common_pb2

_CAPACITY = 100_000
_LOCK_S = 5.0  # that another process may take to write


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """An item as it was sent; see `MediaItem`."""

    kind: common_pb2.MediaKind
    options: common_pb2.MediaOptions
    digest: bytes
    sizes: tuple[int, ...]


class Aliases:
    """Items by tenant, kind of media ("image" or "video") and name.

    A table of SQLite, because all processes of a router share it. Of the last `capacity` uses of names each is
    remembered: writing a row again gives it the highest number, and rows of too low a number go.

    Args:
        metrics: of this cache.
        path: of the file that the processes share; None: memory of this process.
        capacity: names that are kept, at most.
    """

    def __init__(self, metrics: Cache, path: Path | None = None, capacity: int = _CAPACITY) -> None:
        self._metrics = metrics
        self._capacity = capacity
        self._rows = sqlite3.connect(path or ":memory:", timeout=_LOCK_S, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = OFF")  # a crash of the machine may take it along
        self._rows.execute(
            "CREATE TABLE IF NOT EXISTS aliases (number INTEGER PRIMARY KEY AUTOINCREMENT, tenant BLOB, word TEXT,"
            " uuid TEXT, kind INTEGER, options BLOB, digest BLOB, sizes TEXT, UNIQUE (tenant, word, uuid))"
        )
        metrics.bytes.set_function(
            lambda: self._number("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        )
        metrics.entries.set_function(lambda: self._number("SELECT count(*) FROM aliases"))

    def get(self, tenant: bytes, word: str, uuid: str) -> Remembered | None:
        row = self._rows.execute(
            "SELECT kind, options, digest, sizes FROM aliases WHERE tenant = ? AND word = ? AND uuid = ?",
            (tenant, word, uuid),
        ).fetchone()
        if row is None:
            self._metrics.misses.inc()
            return None
        self._metrics.hits.inc()
        kind, options, digest, sizes = row
        found = Remembered(
            kind=kind,
            options=common_pb2.MediaOptions.FromString(options),
            digest=digest,
            sizes=tuple(json.loads(sizes)),
        )
        self.put(tenant, word, uuid, found)
        return found

    def put(self, tenant: bytes, word: str, uuid: str, item: Remembered) -> None:
        """From now on the name stands for `item`."""
        cursor = self._rows.execute(
            "INSERT OR REPLACE INTO aliases (tenant, word, uuid, kind, options, digest, sizes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(tenant, word, uuid, item.kind),
                *(item.options.SerializeToString(deterministic=True), item.digest, json.dumps(item.sizes)),
            ),
        )
        assert cursor.lastrowid is not None
        gone = self._rows.execute("DELETE FROM aliases WHERE number <= ?", (cursor.lastrowid - self._capacity,))
        self._metrics.evictions.inc(gone.rowcount)

    def close(self) -> None:
        self._rows.close()

    def _number(self, query: str) -> int:
        (number,) = self._rows.execute(query).fetchone()
        assert isinstance(number, int)
        return number
