"""The one thread that runs the vision tower: take a batch, encode it, report; as long as there are any."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from common.errors import InternalError
from common.logs import RateLimitedLog
from encode_server.batcher import Batcher, Failed, Finished, Piece, Stopped, TensorReady
from encode_server.encoder import Encoder
from encode_server.metrics import EncodeMetrics

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_SMOOTHING = 0.2  # weight of the newest batch in the measured speed


class Tower:
    """Owns the thread. Callbacks come from it.

    Args:
        on_batch: a batch was taken from the batcher, so that there is room for the next.
        on_broken: the device does not work any more; nothing will be encoded from here on.
    """

    def __init__(
        self,
        encoder: Encoder,
        batcher: Batcher,
        metrics: EncodeMetrics,
        *,
        on_batch: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._encoder = encoder
        self._batcher = batcher
        self._metrics = metrics
        self._faults = RateLimitedLog(log)
        self._on_batch = on_batch
        self._on_broken = on_broken
        self._thread = threading.Thread(target=self._main, name="tower", daemon=True)
        self.patches_per_second = 1.0  # a guess, until `start` has measured

    def start(self) -> None:
        """Warms the tower up, measures its speed for the first time, and starts the thread. Blocks meanwhile."""
        self._encoder.check()
        started = time.monotonic()
        self.patches_per_second = self._encoder.check() / (time.monotonic() - started)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the batch that it is at, unless that is stuck; what waits is dropped."""
        self._batcher.close()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _main(self) -> None:
        while (batch := self._batcher.take()) is not None:
            self._on_batch()
            works = self._run(batch)
            for job in self._batcher.finish(batch):
                job.report(Stopped())
            if not works:
                self._on_broken()
                return

    def _run(self, batch: Sequence[Piece]) -> bool:
        """Encodes a batch, or what of it can be encoded. False if the device does not even do its check any more."""
        if self._encode(batch):
            return True
        all_well = True
        for piece in batch:
            if len(batch) == 1 or not self._encode([piece]):
                all_well = False
                if not piece.job.over:
                    self._batcher.fail(piece.job)
                    piece.job.report(Failed(error=InternalError("the vision tower failed on this item")))
        return all_well or self._works()

    def _works(self) -> bool:
        try:
            self._encoder.check()
        except Exception:  # whatever it is, the answer is no
            log.exception("the vision tower fails on any input")
            return False
        return True

    def _encode(self, batch: Sequence[Piece]) -> bool:
        """Encodes `batch` and reports what became ready; False if that failed, which is logged and counted."""
        batch = [piece for piece in batch if not piece.job.over]
        if not batch:
            return True
        started = time.monotonic()
        try:
            self._encoder.encode(batch, self._written)
        except Exception as error:  # noqa: BLE001  what goes wrong on a device has many types, none may end the thread
            requests = sorted({piece.job.request_id for piece in batch})
            message = "a batch of %d items failed in the vision tower"
            self._faults.error("batch", message, len(batch), trace=error, extra={"request_ids": requests})
            self._metrics.failed_batches.inc()
            return False
        seconds = time.monotonic() - started
        self._measure(batch, seconds)
        for piece in batch:
            assert piece.written == set(piece.job.layout.tensors), piece.written
            piece.job.seconds += seconds
            if all(rows == piece.job.layout.rows for rows in piece.job.rows_written.values()):
                piece.job.report(Finished(seconds=piece.job.seconds))
        return True

    def _written(self, piece: Piece, tensor: str) -> None:
        """`piece` has its rows of `tensor` in the job's memory."""
        job, rows = piece.job, piece.rows
        piece.written.add(tensor)
        job.rows_written[tensor] = job.rows_written.get(tensor, 0) + rows.stop - rows.start
        if job.rows_written[tensor] == job.layout.rows:
            job.report(TensorReady(tensor=tensor))

    def _measure(self, batch: Sequence[Piece], seconds: float) -> None:
        patches = sum(piece.patches for piece in batch)
        self.patches_per_second += _SMOOTHING * (patches / seconds - self.patches_per_second)
        self._metrics.batches.inc()
        self._metrics.batch_items.observe(len(batch))
        self._metrics.batch_patches.observe(patches)
        self._metrics.batch_seconds.observe(seconds)
