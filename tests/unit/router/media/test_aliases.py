from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.metrics import Cache, CacheMetrics
from common.pb import common_pb2
from router.media.aliases import Aliases, Remembered


def item(number: int = 0, **options: int) -> Remembered:
    return Remembered(
        kind=common_pb2.FRAMES,
        options=common_pb2.MediaOptions(**options),
        digest=bytes([number]) * 32,
        sizes=(1, 2, 3),
    )


def cache(registry: CollectorRegistry | None = None) -> Cache:
    return CacheMetrics(registry or CollectorRegistry()).cache("alias")


@pytest.fixture
def aliases() -> Iterator[Aliases]:
    with closing(Aliases(cache(), capacity=3)) as made:
        yield made


def test_a_name_is_of_one_tenant_and_one_kind(aliases: Aliases) -> None:
    aliases.put(b"tenant", "video", "name", item(1, max_pixels=9))
    assert aliases.get(b"tenant", "video", "name") == item(1, max_pixels=9)
    assert aliases.get(b"other", "video", "name") is None
    assert aliases.get(b"tenant", "image", "name") is None
    assert aliases.get(b"tenant", "video", "NAME") is None


def test_the_last_one_counts(aliases: Aliases) -> None:
    aliases.put(b"", "image", "name", item(1))
    aliases.put(b"", "image", "name", item(2))
    assert aliases.get(b"", "image", "name") == item(2)


def test_what_was_not_used_for_longest_goes(aliases: Aliases) -> None:
    for name in "abc":
        aliases.put(b"", "image", name, item())
    assert aliases.get(b"", "image", "a") is not None  # used again
    aliases.put(b"", "image", "d", item())
    assert aliases.get(b"", "image", "b") is None
    assert aliases.get(b"", "image", "a") is not None


def test_processes_share_a_file(tmp_path: Path) -> None:
    with closing(Aliases(cache(), tmp_path / "file")) as one, closing(Aliases(cache(), tmp_path / "file")) as two:
        one.put(b"", "image", "name", item(1))
        assert two.get(b"", "image", "name") == item(1)
        two.put(b"", "image", "name", item(2))
        assert one.get(b"", "image", "name") == item(2)


def test_what_is_counted() -> None:
    registry = CollectorRegistry()
    with closing(Aliases(cache(registry), capacity=2)) as aliases:
        for name in "abc":
            aliases.put(b"", "image", name, item())
        assert aliases.get(b"", "image", "a") is None
        assert aliases.get(b"", "image", "c") is not None  # the last two uses of names are this one's
        counted = {
            name: registry.get_sample_value(f"epd_cache_{name}", {"cache": "alias"})
            for name in ("hits_total", "misses_total", "evictions_total", "entries", "bytes")
        }
    assert counted.pop("bytes", 0) >= 4096
    assert counted == {"hits_total": 1, "misses_total": 1, "evictions_total": 2, "entries": 1}
