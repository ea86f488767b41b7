"""Decoding and preprocessing in threads of their own, off the event loop and beside the vision tower."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from common.pb import common_pb2
from common.processing import Grid

_SMOOTHING = 0.2  # weight of the newest item in the measured speed
_HEADER_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of an item, as its header tells before anything is decoded.

    Attributes:
        grid: in patches.
        rows: visual tokens.
        timestamps: seconds, one a temporal patch; empty for images.
        frames: indices of the frames to decode; empty for images.
    """

    grid: Grid
    rows: int
    timestamps: tuple[float, ...] = ()
    frames: tuple[int, ...] = ()

    @property
    def patches(self) -> int:
        return self.grid.patches

    @property
    def metadata(self) -> common_pb2.MediaMetadata:
        grid = common_pb2.Grid(t=self.grid.t, h=self.grid.h, w=self.grid.w)
        return common_pb2.MediaMetadata(grid=grid, rows=self.rows, timestamps=self.timestamps)


@dataclass(frozen=True, kw_only=True)
class Media:
    """The bytes of one item and what was asked for it; `parts` has one entry, or one a frame for FRAMES."""

    kind: common_pb2.MediaKind
    parts: Sequence[bytes]
    options: common_pb2.MediaOptions


class MediaReader(Protocol):
    """The checkpoint's rules applied to media. Called from several threads at once.

    Raises (both):
        BadMediaError: the media can't be used; the message says why.
        InvalidRequestError: the options can't be honoured.
    """

    def plan(self, media: Media) -> Plan:
        """From the header alone, quickly."""

    def read(self, media: Media, plan: Plan) -> torch.Tensor:
        """Decoded, resized, normalised and cut: `[patches, C*T*P*P]` float32."""


class Preprocessor:
    """Runs a reader in threads: headers in some of their own, so that they don't wait behind the pixels of others."""

    def __init__(self, reader: MediaReader, *, threads: int) -> None:
        self.threads = threads
        self._reader = reader
        self._headers = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="headers")
        self._pixels = ThreadPoolExecutor(threads, thread_name_prefix="pixels")
        self._lock = threading.Lock()
        self._patches_per_second: float | None = None  # of one thread

    @property
    def patches_per_second(self) -> float:
        """Of all threads together; infinite until something was measured."""
        return self.threads * self._patches_per_second if self._patches_per_second else float("inf")

    async def plan(self, media: Media) -> Plan:
        """See `MediaReader.plan`."""
        return await asyncio.get_running_loop().run_in_executor(self._headers, self._reader.plan, media)

    async def prepare(self, media: Media, plan: Plan, stage: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """See `MediaReader.read`; `stage` makes of the pixels what the tower takes, in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pixels, self._prepare, media, plan, stage)

    def close(self) -> None:
        """Lets threads end with what they are at."""
        self._headers.shutdown(wait=False, cancel_futures=True)
        self._pixels.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, media: Media, plan: Plan, stage: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        started = time.monotonic()
        pixels = self._reader.read(media, plan)
        assert len(pixels) == plan.patches, f"{len(pixels)} patches were made and {plan.patches} announced"
        staged = stage(pixels)
        speed = plan.patches / (time.monotonic() - started)
        with self._lock:
            known = self._patches_per_second or speed
            self._patches_per_second = known + _SMOOTHING * (speed - known)
        return staged
