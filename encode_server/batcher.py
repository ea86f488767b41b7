"""Forms the vision tower's batches: across items, by a budget of patches, requests taking turns.

A video larger than the budget is cut between temporal patches, which is exact: attention stays within one. So no
video makes others wait longer than one batch, and a batch's memory is bounded by the budget or by one single frame.

The event loop puts and cancels; the tower's thread takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from common.embeddings import EmbeddingLayout
from common.errors import EPDError
from common.processing import Grid
from encode_server.fair_queue import FairQueue


@dataclass(frozen=True, kw_only=True)
class TensorReady:
    """All rows of `tensor` are in the job's memory."""

    tensor: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """All tensors are. `seconds`: what the item spent in the tower, with whom it shared a batch included."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    error: EPDError


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The tower has let go of the memory of a job that was cancelled while it ran."""


JobEvent = TensorReady | Finished | Failed | Stopped


@dataclass(eq=False, kw_only=True)
class Job:
    """A preprocessed item, and where its embedding goes.

    Attributes:
        request_id: whose turn it takes.
        grid: in patches.
        pixels: `[patches, C*T*P*P]`, in the tower's dtype.
        memory: `layout.total_bytes` bytes.
        report: called from the tower's thread; the last event is Finished, Failed or Stopped.
    """

    request_id: str
    grid: Grid
    pixels: torch.Tensor
    layout: EmbeddingLayout
    memory: memoryview
    report: Callable[[JobEvent], None]
    rows_written: dict[str, int] = field(default_factory=dict)
    put_at: float = 0.0  # time.monotonic(), as are these
    taken_at: float = 0.0  # its first piece
    seconds: float = 0.0
    running: int = 0  # pieces in the tower
    over: bool = False  # cancelled or failed: what is left of it is not run


@dataclass(eq=False, kw_only=True)
class Piece:
    """Temporal patches `start` to `stop` of a job: what the tower gets in one go."""

    job: Job
    start: int
    stop: int
    written: set[str] = field(default_factory=set)  # tensors that are in the job's memory

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.stop - self.start, self.job.grid.h, self.job.grid.w

    @property
    def patches(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def pixels(self) -> torch.Tensor:
        frame = self.job.grid.h * self.job.grid.w
        return self.job.pixels[self.start * frame : self.stop * frame]

    @property
    def rows(self) -> slice:
        """Its rows in each of the job's tensors."""
        frame = self.job.layout.rows // self.job.grid.t
        return slice(self.start * frame, self.stop * frame)


class Batcher:
    """Pieces that wait for the tower, and the books about what is in it.

    Args:
        max_batch_patches: budget of one batch; only a single frame may exceed it, and then runs alone.
    """

    def __init__(self, max_batch_patches: int) -> None:
        self._budget = max_batch_patches
        self._queue: FairQueue[Piece] = FairQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._running_since = 0.0
        self._progress_at = time.monotonic()
        self.waiting_patches = 0
        self.running_patches = 0

    def put(self, job: Job) -> None:
        with self._changed:
            if self.waiting_patches == self.running_patches == 0:
                self._progress_at = time.monotonic()
            job.put_at = time.monotonic()
            for piece in cut(job, self._budget):
                self._queue.push(job.request_id, piece)
                self.waiting_patches += piece.patches
            self._changed.notify()

    def cancel(self, job: Job) -> bool:
        """Takes back what of `job` has not run. False if some of it is running: then `Stopped` is reported."""
        with self._changed:
            job.over = True
            self._drop(job)
            return job.running == 0

    def fail(self, job: Job) -> None:
        """Drops the rest of a job of which a piece failed."""
        with self._changed:
            job.over = True
            self._drop(job)

    def take(self) -> list[Piece] | None:
        """The next batch, as soon as there is one; None once closed. What was taken before is finished."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            batch = list(self._fill())
            self._running_since = time.monotonic()
            for piece in batch:
                piece.job.running += 1
                piece.job.taken_at = piece.job.taken_at or self._running_since
            self.running_patches = sum(piece.patches for piece in batch)
            self.waiting_patches -= self.running_patches
            return batch

    def finish(self, batch: Sequence[Piece]) -> list[Job]:
        """The tower is through with `batch`. Returns the jobs that were cancelled meanwhile, and are let go now."""
        with self._changed:
            self.running_patches = 0
            self._progress_at = time.monotonic()
            stopped = []
            for piece in batch:
                piece.job.running -= 1
                if piece.job.over and piece.job.running == 0:
                    stopped.append(piece.job)
            return stopped

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def seconds_of_work(self, patches_per_second: float) -> float:
        """Estimate for what waits and for the rest of the running batch."""
        with self._changed:
            running = self.running_patches / patches_per_second
            if self.running_patches:
                running = max(0.0, running - (time.monotonic() - self._running_since))
            return self.waiting_patches / patches_per_second + running

    def seconds_without_progress(self) -> float:
        """How long nothing was finished although there was something to do."""
        with self._changed:
            idle = self.waiting_patches == self.running_patches == 0
            return 0.0 if idle else time.monotonic() - self._progress_at

    def _fill(self) -> Iterator[Piece]:
        """Goes round the requests, one piece each, until nothing more fits.

        Who has to stand back keeps its turn, and the first turn always fits: so nobody waits for ever.
        """
        left = self._budget
        while taken := [head for head in self._queue.heads() if head[1].patches <= left or left == self._budget]:
            for request_id, piece in taken:
                if piece.patches <= left or left == self._budget:
                    self._queue.take(request_id, piece)
                    left -= piece.patches
                    yield piece

    def _drop(self, job: Job) -> None:
        for piece in [piece for piece in self._queue if piece.job is job]:
            self._queue.remove(job.request_id, piece)
            self.waiting_patches -= piece.patches


def cut(job: Job, max_patches: int) -> Iterator[Piece]:
    """Pieces of whole temporal patches, as few and as equal as the budget allows."""
    frames_at_most = max(1, max_patches // (job.grid.h * job.grid.w))
    count = -(-job.grid.t // frames_at_most)
    for i in range(count):
        yield Piece(job=job, start=job.grid.t * i // count, stop=job.grid.t * (i + 1) // count)
