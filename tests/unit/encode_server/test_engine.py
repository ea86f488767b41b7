"""The engine over stubs: who works for whom, in which order, and in whose room."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from common.errors import (
    BadMediaError,
    CancelledError,
    InternalError,
    InvalidRequestError,
    MovedError,
    OverloadedError,
    UnavailableError,
)
from encode_server.engine import EncodeEngine
from encode_server.items import Claim, Stage
from encode_server.metrics import EncodeMetrics
from tests.encode_stubs import (
    BUGGY,
    POISON,
    UNDECODABLE,
    UNREADABLE,
    WAIT,
    StubProcessor,
    StubTower,
    embedding,
    make_engine,
    media,
    opening,
)


class Rig:
    """An engine over stubs; `submit` does what a stream does up to its metadata."""

    def __init__(self, **sizes: int) -> None:
        self.tower, self.processor, self.metrics = StubTower(), StubProcessor(), EncodeMetrics()
        self.engine: EncodeEngine = make_engine(self.tower, self.processor, self.metrics, **sizes)

    async def submit(self, data: bytes, request_id: str = "request") -> Claim:
        claim = self.engine.join(opening(data, request_id=request_id))
        if await self.engine.has_to_upload(claim):
            await self.engine.deliver(claim, [data])
        return claim

    async def finished(self, claim: Claim) -> Claim:
        await self.reached(claim, Stage.FINISHED)
        return claim

    async def finished_for_grant(self, claim: Claim) -> Claim:
        """Has it made, if need be in the room of others, and shipped."""
        self.engine.begin_grant(claim)
        await self.finished(claim)
        self.engine.end_grant(claim, shipped=True)
        return claim

    async def reached(self, claim: Claim, stage: Stage) -> None:
        async with asyncio.timeout(WAIT):
            while claim.item.stage is not stage:
                await claim.item.change()

    async def entered(self) -> None:
        """Waits until a batch is in the tower."""
        assert await asyncio.to_thread(self.tower.entered.acquire, timeout=WAIT)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(name, labels)
        assert found is not None, name
        return found


@asynccontextmanager
async def running(**sizes: int) -> AsyncIterator[Rig]:
    rig = Rig(**sizes)
    await rig.engine.start()
    try:
        yield rig
    finally:
        rig.tower.gate.set()
        rig.tower.level_gate.set()
        rig.processor.gate.set()
        await rig.engine.stop()


async def settled() -> None:
    """Until the engine has had every chance to do what it must not do."""
    for _ in range(20):
        await asyncio.sleep(0)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():
            await asyncio.sleep(0.001)


async def test_an_item_is_encoded_without_any_grant() -> None:
    async with running() as rig:
        claim = await rig.finished(await rig.submit(media(5.0)))
        assert bytes(claim.item.data) == embedding(5.0, 4)
        assert [stage.name for stage in claim.item.stages] == ["queue", "preprocess", "batch", "vision"]
        assert rig.value("epd_encode_items_total") == 1
        assert rig.value("epd_stage_seconds_count", stage="vision") == 1


async def test_streams_with_one_key_share_one_encode_whatever_stage_it_is_in() -> None:
    async with running() as rig:
        rig.processor.gate.clear()
        first = await rig.submit(media(1.0))
        second = await rig.submit(media(1.0))
        rig.processor.gate.set()
        await rig.finished(first)
        third = await rig.submit(media(1.0))
        assert first.item is second.item is third.item
        assert (first.found_finished, third.found_finished) == (False, True)
        assert rig.processor.planned == 1
        assert rig.value("epd_encode_items_total") == 1
        assert rig.value("epd_cache_hits_total", cache="embeddings") == 2
        assert rig.value("epd_cache_misses_total", cache="embeddings") == 1


async def test_only_the_last_stream_to_leave_takes_the_work_with_it() -> None:
    async with running() as rig:
        rig.tower.gate.clear()
        blocker = await rig.submit(media(0.0, grid=(1, 8, 8)))
        await rig.entered()
        first = await rig.submit(media(1.0), "A")
        second = await rig.submit(media(1.0), "B")
        doomed = await rig.submit(media(2.0), "C")
        await rig.reached(doomed, Stage.ENCODING)
        rig.engine.leave(first)
        rig.engine.leave(doomed)
        assert doomed.item.stage is Stage.FAILED
        rig.tower.gate.set()
        await rig.finished(second)
        assert rig.tower.values == [[0.0], [1.0]]  # the cancelled item left the queue before it was encoded
        await rig.finished(blocker)
        assert rig.value("epd_cache_bytes", cache="embeddings") == (16 + 4) * 128


async def test_cancelled_in_the_tower_its_room_comes_back_after_the_batch() -> None:
    async with running(cache_rows=4) as rig:
        rig.tower.gate.clear()
        doomed = await rig.submit(media(1.0))
        await rig.entered()
        rig.engine.leave(doomed)
        successor = await rig.submit(media(1.0))  # the same key: a new item, for the old one is lost
        assert successor.item is not doomed.item
        assert rig.value("epd_cache_bytes", cache="embeddings") == 4 * 128
        rig.tower.gate.set()
        await rig.finished(successor)
        assert bytes(successor.item.data) == embedding(1.0, 4)


async def test_cancelled_before_its_media_are_read_nothing_is_left() -> None:
    async with running() as rig:
        claim = rig.engine.join(opening(media(1.0)))
        assert await rig.engine.has_to_upload(claim)
        rig.engine.leave(claim)
        assert rig.engine.load().waiting == 0
        await rig.finished(await rig.submit(media(1.0)))


async def test_a_second_stream_waits_for_the_upload_and_takes_over_if_it_never_comes() -> None:
    async with running() as rig:
        first, second = rig.engine.join(opening(media(1.0))), rig.engine.join(opening(media(1.0)))
        assert await rig.engine.has_to_upload(first)
        waiting = asyncio.create_task(rig.engine.has_to_upload(second))
        await asyncio.sleep(0)
        assert not waiting.done()
        rig.engine.leave(first)
        assert await asyncio.wait_for(waiting, WAIT)
        await rig.engine.deliver(second, [media(1.0)])
        await rig.finished(second)


async def test_requests_take_turns() -> None:
    async with running(max_batch_patches=16, threads=1) as rig:
        rig.tower.gate.clear()
        claims = [await rig.submit(media(0.0), "A")]
        await rig.entered()
        claims += [await rig.submit(media(float(i)), "A") for i in range(1, 6)]
        claims += [await rig.submit(media(10.0), "B"), await rig.submit(media(20.0), "C")]
        rig.tower.gate.set()
        for claim in claims:
            await rig.finished(claim)
        order = [value for batch in rig.tower.values for value in batch]
        # what was preprocessed before B and C came stays ahead: two batches; then they take turns
        assert max(order.index(10.0), order.index(20.0)) <= 5


async def test_bad_items_fail_alone_and_with_their_own_error() -> None:
    async with running() as rig:
        with pytest.raises(BadMediaError, match="no header"):
            await rig.submit(media(UNREADABLE))
        rig.tower.gate.clear()
        blocker = await rig.submit(media(0.0))
        await rig.entered()
        expected = {UNDECODABLE: BadMediaError, BUGGY: InternalError, POISON: InternalError}
        bad = {value: await rig.submit(media(value)) for value in expected}
        good = await rig.submit(media(7.0))
        rig.tower.gate.set()
        for value, error in expected.items():
            with pytest.raises(error):
                await rig.finished(bad[value])
        await rig.finished(blocker)
        await rig.finished(good)
        assert bytes(good.item.data) == embedding(7.0, 4)
        for claim in bad.values():
            rig.engine.leave(claim)
        await eventually(lambda: rig.value("epd_cache_bytes", cache="embeddings") == 2 * 4 * 128)


async def test_an_item_that_can_never_fit_is_refused_at_once() -> None:
    async with running(cache_rows=4) as rig:
        with pytest.raises(BadMediaError, match="640 bytes"):
            await rig.submit(media(1.0, grid=(1, 4, 5)))
        assert rig.processor.decoded == []


async def test_finished_items_that_nobody_wants_make_room_the_oldest_first() -> None:
    async with running(cache_rows=8) as rig:
        for value in (1.0, 2.0):
            rig.engine.leave(await rig.finished(await rig.submit(media(value))))
        rig.engine.leave(await rig.submit(media(1.0)))  # still there, but not used by that
        used = await rig.submit(media(1.0))
        rig.engine.begin_grant(used)
        rig.engine.end_grant(used, shipped=True)
        rig.engine.leave(used)
        await rig.finished(await rig.submit(media(3.0)))
        assert (await rig.submit(media(1.0))).found_finished
        assert not (await rig.submit(media(2.0))).found_finished


async def test_wanted_items_keep_their_room_and_the_next_waits_for_it() -> None:
    async with running(cache_rows=4) as rig:
        holder = await rig.finished(await rig.submit(media(1.0)))
        waiter = await rig.submit(media(2.0))
        await settled()
        assert waiter.item.stage is Stage.WAITING
        rig.engine.begin_grant(holder)
        assert rig.value("epd_cache_pins", cache="embeddings") == 1
        rig.engine.end_grant(holder, shipped=True)  # it was shipped: whoever wants it has it
        await rig.finished(waiter)
        assert holder.item.stage is Stage.SHELVED


async def test_a_shelved_item_is_made_again_for_a_new_grant() -> None:
    async with running(cache_rows=4) as rig:
        first = await rig.finished(await rig.submit(media(1.0)))
        rig.engine.begin_grant(first)
        rig.engine.end_grant(first, shipped=True)
        second = await rig.finished(await rig.submit(media(2.0)))
        assert first.item.stage is Stage.SHELVED
        rig.engine.begin_grant(second)
        rig.engine.end_grant(second, shipped=True)
        rig.engine.begin_grant(first)
        await rig.finished(first)
        assert bytes(first.item.data) == embedding(1.0, 4)
        assert rig.value("epd_encode_items_total") == 3


async def test_a_granted_item_takes_room_from_one_that_waits_for_its_grant() -> None:
    """Else this server and a language server with little room could wait for each other for ever."""
    async with running(cache_rows=4) as rig:
        younger = await rig.finished(await rig.submit(media(1.0), "younger"))
        older = await rig.submit(media(2.0), "older")
        rig.engine.begin_grant(older)
        await rig.finished(older)
        assert younger.item.stage is Stage.SHELVED
        rig.engine.begin_grant(younger)  # now it waits for the other's shipment only
        await settled()
        assert younger.item.stage is Stage.WAITING
        rig.engine.end_grant(older, shipped=True)
        await rig.finished(younger)


async def test_a_grant_lets_an_item_overtake_one_that_waits_for_room_in_vain() -> None:
    async with running(cache_rows=8) as rig:
        await rig.finished(await rig.submit(media(1.0), "A"))
        large = await rig.submit(media(2.0, grid=(1, 8, 4)), "B")  # both places, one is taken
        small = await rig.submit(media(3.0), "C")
        await settled()
        assert (large.item.stage, small.item.stage) == (Stage.WAITING, Stage.WAITING)
        rig.engine.begin_grant(small)
        await rig.finished(small)
        assert large.item.stage is Stage.WAITING


async def test_a_cached_item_without_its_media_can_not_be_made_again() -> None:
    async with running(cache_rows=4) as rig:
        rig.engine.leave(await rig.finished(await rig.submit(media(1.0))))
        cached = await rig.submit(media(1.0))
        assert cached.found_finished
        other = await rig.submit(media(2.0))
        rig.engine.begin_grant(other)
        await rig.finished(other)
        with pytest.raises(UnavailableError, match="send the media again"):
            rig.engine.begin_grant(cached)


async def test_whoever_opens_a_lost_item_again_uploads_it_for_all_that_still_hold_it() -> None:
    async with running(cache_rows=4) as rig:
        rig.engine.leave(await rig.finished(await rig.submit(media(1.0))))
        first, second = await rig.submit(media(1.0), "A"), await rig.submit(media(1.0), "B")
        other = await rig.finished_for_grant(await rig.submit(media(2.0), "C"))
        rig.engine.leave(other)
        with pytest.raises(UnavailableError, match="send the media again"):
            rig.engine.begin_grant(first)
        rig.engine.leave(first)

        again = rig.engine.join(opening(media(1.0), request_id="A"))
        assert not again.found_finished
        assert await rig.engine.has_to_upload(again)
        with pytest.raises(UnavailableError, match="send the media again"):
            rig.engine.begin_grant(second)  # what is under way may never arrive
        await rig.engine.deliver(again, [media(1.0)])
        rig.engine.begin_grant(second)
        for claim in (again, second):
            await rig.finished(claim)
            assert bytes(claim.item.data) == embedding(1.0, 4)


async def test_the_pool_is_one_buffer_that_is_used_again() -> None:
    async with running(cache_rows=4) as rig:
        seen = set()
        for value in range(5):
            claim = await rig.finished(await rig.submit(media(float(value))))
            assert claim.item.extent is not None
            seen.add((claim.item.extent.offset, claim.item.extent.size))
            rig.engine.leave(claim)
        assert seen == {(0, 512)}


async def test_beyond_its_bounds_the_queue_refuses() -> None:
    async with running(cache_rows=4, max_waiting_items=2, max_waiting_bytes=40) as rig:
        rig.tower.gate.clear()
        claims = [await rig.submit(media(float(i))) for i in range(2)]
        with pytest.raises(OverloadedError, match="2 media items"):
            rig.engine.join(opening(media(2.0)))
        rig.engine.join(opening(media(1.0)))  # sharing costs nothing
        rig.engine.leave(claims[0])
        with pytest.raises(OverloadedError, match="bytes of media"):
            rig.engine.join(opening(media(2.0) + b"0" * 40))
        await rig.submit(media(2.0))


async def test_a_key_for_other_media_is_refused() -> None:
    async with running() as rig:
        key = bytes(32)
        rig.engine.join(opening(media(1.0), key=key))
        with pytest.raises(InvalidRequestError):
            rig.engine.join(opening(media(2.0), key=key))


async def test_load_counts_seconds_of_work_with_the_running_batch() -> None:
    async with running(max_batch_patches=16) as rig:
        assert rig.engine.load().queue_seconds == 0
        rig.tower.gate.clear()
        first = await rig.submit(media(1.0))
        await rig.entered()
        claims = [await rig.submit(media(float(value))) for value in range(2, 8)]
        load = rig.engine.load()
        assert load.queue_seconds > 0
        assert load.running + load.waiting == 7
        assert rig.value("epd_queue_seconds") > 0
        assert rig.engine.seconds_without_progress() > 0
        rig.tower.gate.set()
        for claim in (first, *claims):
            await rig.finished(claim)
        await eventually(lambda: rig.engine.seconds_without_progress() == 0)
        assert rig.engine.load().queue_seconds == 0


async def test_an_item_that_prepares_for_ever_is_no_progress() -> None:
    async with running() as rig:
        rig.processor.gate.clear()
        claim = await rig.submit(media(1.0))
        await eventually(lambda: rig.engine.seconds_without_progress() > 0)
        rig.processor.gate.set()
        await rig.finished(claim)
        await eventually(lambda: rig.engine.seconds_without_progress() == 0)


async def test_draining_hands_back_what_is_not_begun_and_waits_for_the_rest() -> None:
    async with running(max_batch_patches=16, threads=1, cache_rows=8) as rig:
        rig.tower.gate.clear()
        begun = await rig.submit(media(1.0))
        await rig.entered()
        second = await rig.submit(media(2.0))
        await rig.reached(second, Stage.ENCODING)
        waiting = await rig.submit(media(3.0))  # there is no room for it
        draining = asyncio.create_task(rig.engine.drain(WAIT))
        with pytest.raises(MovedError):
            await rig.finished(waiting)
        rig.engine.leave(waiting)
        with pytest.raises(UnavailableError):
            rig.engine.join(opening(media(4.0)))
        assert rig.engine.load().draining
        rig.tower.gate.set()
        await rig.finished(begun)
        await rig.finished(second)
        assert not draining.done()
        rig.engine.leave(begun)
        rig.engine.leave(second)
        await asyncio.wait_for(draining, WAIT)


async def test_draining_ends_in_time() -> None:
    async with running() as rig:
        claim = await rig.finished(await rig.submit(media(1.0)))
        await rig.engine.drain(0.05)
        assert isinstance(claim.item.error, MovedError)


async def test_a_dead_device_fails_everything_and_says_so() -> None:
    async with running() as rig:
        rig.tower.broken = True
        claim = await rig.submit(media(1.0))
        with pytest.raises((InternalError, UnavailableError)):
            await rig.finished(claim)
        await asyncio.wait_for(rig.engine.broken.wait(), WAIT)
        with pytest.raises(UnavailableError):
            rig.engine.join(opening(media(2.0)))


async def test_a_failed_item_is_not_kept_and_can_be_tried_again() -> None:
    async with running() as rig:
        bad = await rig.submit(media(POISON))
        with pytest.raises(InternalError):
            await rig.finished(bad)
        again = rig.engine.join(opening(media(POISON)))
        assert again.item is not bad.item
        rig.engine.leave(bad)
        rig.engine.leave(again)
        assert isinstance(again.item.error, CancelledError)


@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_of_streams_ends_and_leaves_nothing_pinned(seed: int) -> None:
    """A pool far too small for what is wanted at once: nobody may wait for ever, and no embedding may be mixed up."""
    rng = random.Random(seed)

    async def one_stream(rig: Rig, number: int) -> None:
        value = float(rng.randrange(12))  # so that keys are shared
        data = media(value, grid=rng.choice([(1, 4, 4), (2, 4, 4), (5, 4, 4)]))
        claim = rig.engine.join(opening(data, request_id=f"request {number % 5}"))
        try:
            if await rig.engine.has_to_upload(claim):
                if rng.random() < 0.1:
                    return
                await rig.engine.deliver(claim, [data])
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(rng.random() * 0.002)
                rig.engine.begin_grant(claim)
                shipped = False
                try:
                    await rig.finished(claim)
                    await asyncio.sleep(rng.random() * 0.002)
                    assert bytes(claim.item.data) == embedding(value, claim.item.layout.rows)
                    shipped = rng.random() < 0.8
                finally:
                    rig.engine.end_grant(claim, shipped=shipped)
        except UnavailableError:
            pass  # cached, evicted, and its media gone: the router sends them again
        finally:
            rig.engine.leave(claim)

    async with running(cache_rows=24, max_batch_patches=48, max_waiting_items=1000) as rig:
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*(one_stream(rig, number) for number in range(120)))
        await eventually(lambda: rig.value("epd_cache_pins", cache="embeddings") == 0)
        load = rig.engine.load()
        assert (load.running, load.waiting) == (0, 0)
        await rig.finished(await rig.submit(media(99.0, grid=(6, 4, 4))))  # the whole pool can be had again
