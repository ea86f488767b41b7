"""Decoding and preprocessing in threads of their own, off the event loop and beside the vision tower."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from common.pb import common_pb2
from common.processing import MediaOptions
from encode_server.media.processor import MediaPlan, MediaProcessor

_SMOOTHING = 0.2  # weight of the newest item in the measured speed
_HEADER_THREADS = 2


class Preprocessor:
    """Runs a processor in threads: headers in some of their own, so that they don't wait behind others' pixels."""

    def __init__(self, processor: MediaProcessor, *, threads: int) -> None:
        self.threads = threads
        self._processor = processor
        self._headers = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="headers")
        self._pixels = ThreadPoolExecutor(threads, thread_name_prefix="pixels")
        self._lock = threading.Lock()
        self._speed: float | None = None  # patches a second of one thread

    @property
    def patches_per_second(self) -> float:
        """Of all threads together; infinite until something was measured."""
        return self.threads * self._speed if self._speed else float("inf")

    async def plan(self, kind: common_pb2.MediaKind, parts: Sequence[bytes], options: MediaOptions) -> MediaPlan:
        """See `MediaProcessor.plan`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._headers, self._processor.plan, kind, parts, options)

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

    def close(self) -> None:
        """Lets threads end with what they are at."""
        self._headers.shutdown(wait=False, cancel_futures=True)
        self._pixels.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self,
        plan: MediaPlan,
        parts: Sequence[bytes],
        stage: Callable[[torch.Tensor], torch.Tensor],
        is_cancelled: Callable[[], bool],
    ) -> torch.Tensor:
        started = time.monotonic()
        staged = stage(self._processor.patches(plan, parts, is_cancelled=is_cancelled))
        speed = plan.grid.patches / (time.monotonic() - started)
        with self._lock:
            known = self._speed or speed
            self._speed = known + _SMOOTHING * (speed - known)
        return staged
