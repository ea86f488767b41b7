"""Decoding and preprocessing in threads of their own, off the event loop and beside the vision tower."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

from common.pb import common_pb2
from common.processing import MediaOptions
from encode_server.media.processor import MediaPlan, MediaProcessor

_SMOOTHING = 0.2  # weight of the newest item in the measured speed
_HEADER_THREADS = 2  # of images, and as many of videos
# Source pixels that are decoded at the same time: two images of the largest size, at seven to ten bytes a pixel.
_PIXELS_AT_ONCE = 128 << 20


class PixelBudget:
    """Bounds the memory that decoding takes in all threads together."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._next = threading.Lock()  # held by the one who waits for room, so that no smaller one overtakes it
        self._changed = threading.Condition()

    @contextmanager
    def share(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for `pixels`; what is larger than all of it runs alone."""
        pixels = min(pixels, self._capacity)
        with self._next, self._changed:
            self._changed.wait_for(lambda: self._used + pixels <= self._capacity)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


class Preprocessor:
    """Runs a processor in threads.

    Headers have some of their own, so that they don't wait behind others' pixels; and those of videos, whose frames
    have to be counted, have others than those of images.

    Args:
        threads: that decode.
        pixels_at_once: of images that are decoded at the same time, before they are resized.
    """

    def __init__(self, processor: MediaProcessor, *, threads: int, pixels_at_once: int = _PIXELS_AT_ONCE) -> None:
        self.threads = threads
        self._processor = processor
        self._headers = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="headers")
        self._videos = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="videos")
        self._pixels = ThreadPoolExecutor(threads, thread_name_prefix="pixels")
        self._budget = PixelBudget(pixels_at_once)
        self._lock = threading.Lock()
        self._progress_at: dict[int, float] = {}  # of each thread that is at work
        self._speed: float | None = None  # patches a second of one thread

    @property
    def patches_per_second(self) -> float:
        """Of all threads together; infinite until something was measured."""
        return self.threads * self._speed if self._speed else float("inf")

    async def plan(self, kind: common_pb2.MediaKind, parts: Sequence[bytes], options: MediaOptions) -> MediaPlan:
        """See `MediaProcessor.plan`; ends early when this is cancelled."""
        pool = self._videos if kind == common_pb2.VIDEO else self._headers
        left = threading.Event()
        plan = partial(self._processor.plan, kind, parts, options, is_cancelled=left.is_set)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, plan)
        finally:
            left.set()

    async def prepare(
        self,
        plan: MediaPlan,
        parts: Sequence[bytes],
        *,
        stage: Callable[[torch.Tensor], torch.Tensor],
        is_cancelled: Callable[[], bool],
    ) -> torch.Tensor:
        """See `MediaProcessor.patches`; `stage` makes of them what the tower takes, in the same thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pixels, self._prepare, plan, parts, stage, is_cancelled)

    @property
    def running(self) -> int:
        """Threads that decode; the others have nothing to do, or wait for their share of the memory."""
        return len(self._progress_at)

    def seconds_without_progress(self) -> float:
        """How long a thread has been at one image, or at one frame of a video."""
        with self._lock:
            return time.monotonic() - min(self._progress_at.values()) if self._progress_at else 0.0

    def close(self) -> None:
        """Lets threads end with what they are at."""
        for pool in (self._headers, self._videos, self._pixels):
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self,
        plan: MediaPlan,
        parts: Sequence[bytes],
        stage: Callable[[torch.Tensor], torch.Tensor],
        is_cancelled: Callable[[], bool],
    ) -> torch.Tensor:
        with self._budget.share(plan.source_pixels):
            started = time.monotonic()
            with self._observed() as progress:

                def next_frame_is_cancelled() -> bool:
                    progress()
                    return is_cancelled()

                staged = stage(self._processor.patches(plan, parts, is_cancelled=next_frame_is_cancelled))
            speed = plan.grid.patches / (time.monotonic() - started)
        with self._lock:
            known = self._speed or speed
            self._speed = known + _SMOOTHING * (speed - known)
        return staged

    @contextmanager
    def _observed(self) -> Iterator[Callable[[], None]]:
        """The calling thread is at work; what it gets is to be called whenever it has come on."""
        thread = threading.get_ident()

        def progress() -> None:
            with self._lock:
                self._progress_at[thread] = time.monotonic()

        progress()
        try:
            yield progress
        finally:
            with self._lock:
                del self._progress_at[thread]
