from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from encode_server.cache import ALIGNMENT, EmbeddingCache, Extent, Hold

UNIT = ALIGNMENT


@dataclass(eq=False)
class Owner:
    name: str = ""
    hold: Hold = Hold.FREE
    extent: Extent[Owner] | None = None


@dataclass
class Pool:
    """A cache of `units` and its owners by name, as long as they have an extent."""

    units: int
    owners: dict[str, Owner] = field(default_factory=dict)
    evicted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache: EmbeddingCache[Owner] = EmbeddingCache(
            memoryview(bytearray(self.units * UNIT)), on_evict=self._evicted
        )

    def _evicted(self, owner: Owner) -> None:
        assert self.owners.pop(owner.name) is owner
        self.evicted.append(owner.name)

    def take(self, name: str, units: int, *, hold: Hold = Hold.FREE, urgent: bool = False) -> bool:
        owner = Owner(name, hold)
        owner.extent = self.cache.allocate(owner, units * UNIT, urgent=urgent)
        if owner.extent is not None:
            self.owners[name] = owner
        return owner.extent is not None

    def free(self, name: str) -> None:
        extent = self.owners.pop(name).extent
        assert extent is not None
        self.cache.release(extent)

    def check(self) -> None:
        """No two extents overlap, and the books are right."""
        spans = sorted((o.extent.offset, o.extent.size) for o in self.owners.values() if o.extent is not None)
        end = 0
        for offset, size in spans:
            assert offset >= end
            end = offset + size
        assert end <= self.cache.capacity
        assert self.cache.used_bytes == sum(size for _, size in spans)


def test_what_was_freed_is_used_again_and_holes_grow_together() -> None:
    pool = Pool(4)
    for name in "abcd":
        assert pool.take(name, 1)
    for name in "bdc":  # in an order that joins to the left and to the right
        pool.free(name)
    assert pool.take("e", 3)
    assert pool.evicted == []
    pool.check()


def test_the_least_recently_used_go_first() -> None:
    pool = Pool(3)
    for name in "abc":
        pool.take(name, 1)
    extent = pool.owners["a"].extent
    assert extent is not None
    pool.cache.touch(extent)
    pool.take("d", 1)
    pool.take("e", 1)
    assert pool.evicted == ["b", "c"]


def test_neighbours_go_together_and_nobody_goes_in_vain() -> None:
    pool = Pool(5)
    pool.take("a", 1)
    pool.take("wall", 1, hold=Hold.PINNED)
    pool.take("b", 1)
    pool.take("c", 1)
    pool.take("d", 1)
    assert not pool.take("too much", 4)
    assert pool.evicted == []
    assert pool.take("fits", 3)
    # "a" is the oldest, but its hole would end at the wall
    assert pool.evicted == ["b", "c", "d"]
    pool.check()


def test_pinned_stay_and_reserved_go_only_for_urgent_work() -> None:
    pool = Pool(2)
    pool.take("pinned", 1, hold=Hold.PINNED)
    pool.take("reserved", 1, hold=Hold.RESERVED)
    assert pool.cache.pins == 1
    assert not pool.take("patient", 1)
    assert pool.take("urgent", 1, urgent=True)
    assert pool.evicted == ["reserved"]


def test_extents_are_aligned_and_views_are_theirs() -> None:
    pool = Pool(4)
    first, second = Owner(), Owner()
    one, two = pool.cache.allocate(first, UNIT + 1), pool.cache.allocate(second, 1)
    assert one is not None
    assert two is not None
    assert (one.offset, one.size, two.offset, two.size) == (0, 2 * UNIT, 2 * UNIT, UNIT)
    pool.cache.view(one)[:] = b"1" * one.size
    pool.cache.view(two)[:] = b"2" * two.size
    assert bytes(pool.cache.view(one)) == b"1" * one.size


def test_what_can_never_fit_is_known() -> None:
    cache: EmbeddingCache[Owner] = EmbeddingCache(memoryview(bytearray(3 * UNIT)), on_evict=lambda owner: None)
    assert cache.fits(3 * UNIT)
    assert not cache.fits(3 * UNIT + 1)


@pytest.mark.parametrize("seed", range(8))
def test_any_history_keeps_extents_apart_and_ends_in_one_hole(seed: int) -> None:
    rng, pool = random.Random(seed), Pool(24)
    for step in range(400):
        action = rng.random()
        if action < 0.6:
            held = {name: owner.hold for name, owner in pool.owners.items()}
            urgent, evicted = rng.random() < 0.3, len(pool.evicted)
            taken = pool.take(str(step), rng.randint(1, 8), hold=rng.choice(list(Hold)), urgent=urgent)
            limit = Hold.RESERVED if urgent else Hold.FREE
            assert all(held[name] <= limit for name in pool.evicted[evicted:])
            assert taken or len(pool.evicted) == evicted
        elif pool.owners:
            name = rng.choice(list(pool.owners))
            if action < 0.8:
                pool.free(name)
            else:
                pool.owners[name].hold = rng.choice(list(Hold))
        pool.check()
    for owner in pool.owners.values():
        owner.hold = Hold.FREE
    assert pool.take("all", 24)
    assert list(pool.owners) == ["all"]
