"""Threads: who waits for whom, what they hold together, and whether they come on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import torch

from common.pb import common_pb2
from common.processing import MediaOptions
from encode_server.media.processor import MediaPlan
from encode_server.preprocessor import PixelBudget, Preprocessor
from tests.encode_stubs import WAIT, StubProcessor, media

NONE = MediaOptions()


class SlowProcessor(StubProcessor):
    """Videos are counted until nobody wants them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = threading.Event()
        self.given_up = threading.Semaphore(0)

    def plan(
        self,
        kind: common_pb2.MediaKind,
        parts: Sequence[bytes],
        options: MediaOptions,
        is_cancelled: Callable[[], bool] = bool,
    ) -> MediaPlan:
        if kind == common_pb2.VIDEO:
            self.counting.set()
            while not is_cancelled():
                self.gate.wait(0.001)
            self.given_up.release()
        return super().plan(kind, parts, options)


@asynccontextmanager
async def preprocessing(processor: StubProcessor) -> AsyncIterator[Preprocessor]:
    preprocessor = Preprocessor(processor, threads=2)  # type: ignore[arg-type]
    try:
        yield preprocessor
    finally:
        processor.gate.set()
        preprocessor.close()


async def prepare(preprocessor: Preprocessor) -> torch.Tensor:
    plan = await preprocessor.plan(common_pb2.IMAGE, [media(1.0)], NONE)
    return await preprocessor.prepare(plan, [media(1.0)], stage=lambda pixels: pixels, is_cancelled=bool)


async def test_videos_hold_up_no_image_and_end_when_nobody_wants_them() -> None:
    processor = SlowProcessor()
    async with preprocessing(processor) as preprocessor:
        videos = [asyncio.create_task(preprocessor.plan(common_pb2.VIDEO, [media(1.0)], NONE)) for _ in range(2)]
        assert await asyncio.to_thread(processor.counting.wait, WAIT)
        plan = await asyncio.wait_for(preprocessor.plan(common_pb2.IMAGE, [media(2.0)], NONE), WAIT)
        assert plan.kind == common_pb2.IMAGE
        await asyncio.sleep(0.01)  # both have begun, or will find that they need not
        for video in videos:
            video.cancel()
        await asyncio.gather(*videos, return_exceptions=True)
        assert await asyncio.to_thread(processor.given_up.acquire, timeout=WAIT)


async def test_a_decoder_that_does_not_come_on_is_seen() -> None:
    processor = StubProcessor()
    async with preprocessing(processor) as preprocessor:
        assert preprocessor.seconds_without_progress() == 0.0
        processor.gate.clear()
        stuck = asyncio.create_task(prepare(preprocessor))
        async with asyncio.timeout(WAIT):
            while preprocessor.seconds_without_progress() < 0.05:
                await asyncio.sleep(0.001)
        processor.gate.set()
        await stuck
        assert preprocessor.seconds_without_progress() == 0.0


async def test_a_long_video_comes_on_with_each_frame() -> None:
    class Frames(StubProcessor):
        def patches(
            self, plan: MediaPlan, parts: Sequence[bytes], out: None = None, is_cancelled: Callable[[], bool] = bool
        ) -> torch.Tensor:
            while preprocessor.seconds_without_progress() < 0.05:
                pass
            assert not is_cancelled()
            self.decoded.append(preprocessor.seconds_without_progress())
            return torch.empty(plan.grid.patches, 4)

    processor = Frames()
    async with preprocessing(processor) as preprocessor:
        await prepare(preprocessor)
    assert processor.decoded[0] < 0.05


class TestPixelBudget:
    def test_no_more_than_the_budget_is_decoded_at_the_same_time(self) -> None:
        budget = PixelBudget(10)
        held = most = 0
        lock = threading.Lock()

        def decode(pixels: int) -> None:
            nonlocal held, most
            with budget.share(pixels):
                with lock:
                    held += pixels
                    most = max(most, held)
                threading.Event().wait(0.001)
                with lock:
                    held -= pixels

        threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in (4, 5, 6, 3, 2, 10, 1) * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert (held, most <= 10) == (0, True)

    def test_what_is_larger_than_all_of_it_runs_alone(self) -> None:
        budget = PixelBudget(10)
        entered = threading.Event()

        def decode() -> None:
            with budget.share(1):
                entered.set()

        with budget.share(1000):
            other = threading.Thread(target=decode)
            other.start()
            assert not entered.wait(0.02)
        other.join(WAIT)
        assert entered.is_set()

    def test_a_failure_gives_its_share_back(self) -> None:
        budget = PixelBudget(10)
        with pytest.raises(ValueError, match="broken"), budget.share(10):
            raise ValueError("broken")
        with budget.share(10):
            pass


async def test_decoding_has_its_share_of_the_budget() -> None:
    processor = StubProcessor()
    preprocessor = Preprocessor(processor, threads=2, pixels_at_once=1)  # type: ignore[arg-type]
    processor.gate.clear()
    both = [asyncio.create_task(prepare(preprocessor)) for _ in range(2)]
    async with asyncio.timeout(WAIT):
        while preprocessor.seconds_without_progress() == 0.0:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert preprocessor.running == 1
    processor.gate.set()
    await asyncio.gather(*both)
    preprocessor.close()
