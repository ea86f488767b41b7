"""The way of an item: its turn, room in the pool, preprocessing, the vision tower.

    enqueue --> fair queue --room in the pool--> preprocessing threads --> batcher --> tower thread --> finished

Room is the only thing that items wait for besides their turn. Without grants they wait in order; an item that has a
grant may also take room from finished ones that have none: it will be shipped and done with, so that an encode server
and a language server, both short of room, can't block one another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVarTuple

import torch

from common.errors import EPDError, InternalError
from common.logs import RateLimitedLog, whereabouts
from common.stages import TimedStage
from encode_server.batcher import Batcher, Failed, Finished, Job, JobEvent, Stopped, TensorReady
from encode_server.cache import EmbeddingCache
from encode_server.encoder import Encoder
from encode_server.fair_queue import FairQueue
from encode_server.items import Item, Stage
from encode_server.metrics import EncodeMetrics
from encode_server.preprocessor import Preprocessor
from encode_server.tower import Tower

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # preprocessed and not yet taken by the tower: one to keep it busy, one in the making
_Args = TypeVarTuple("_Args")


class Pipeline:
    """Lives on the event loop; what comes from the tower's thread is posted to the loop first.

    Args:
        on_failed: an item can't be made.
        on_evicted: a finished item loses its room to another.
        on_broken: nothing can be made any more.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessor: Preprocessor,
        metrics: EncodeMetrics,
        *,
        cache_bytes: int,
        max_batch_patches: int,
        on_failed: Callable[[Item, EPDError], None],
        on_evicted: Callable[[Item], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._encoder = encoder
        self._preprocessor = preprocessor
        self._metrics = metrics
        self._faults = RateLimitedLog(log)
        self._on_failed = on_failed
        self._on_broken = on_broken
        self._cache = EmbeddingCache(encoder.buffer(cache_bytes), on_evict=on_evicted)
        self._batcher = Batcher(max_batch_patches)
        self._tower = Tower(
            encoder,
            self._batcher,
            metrics,
            on_batch=lambda: self._post(self.wake),
            on_broken=lambda: self._post(on_broken),
        )
        self._max_ahead = _BATCHES_AHEAD * max_batch_patches
        self._queue: FairQueue[Item] = FairQueue()
        self._preparing: dict[Item, asyncio.Task[None]] = {}  # those that a thread is at, wanted or not
        self._before_tower: set[Item] = set()  # those that are wanted and not with the batcher yet
        self._turn = asyncio.Event()  # something changed that may let the next item in
        metrics.watch_pool(
            used_bytes=lambda: self._cache.used_bytes,
            entries=lambda: len(self._cache),
            pins=lambda: self._cache.pins,
            capacity=self._cache.capacity,
        )

    async def start(self) -> None:
        """Warms the tower up and begins to work."""
        await self._loop.run_in_executor(None, self._tower.start)
        self._dispatcher = asyncio.create_task(self._dispatch())
        self._dispatcher.add_done_callback(self._dispatcher_ended)
        log.info("the vision tower does %.0f patches a second on its first input", self._tower.patches_per_second)

    async def stop(self) -> None:
        """Ends at once; the batch that the tower is at is finished."""
        self._dispatcher.cancel()
        await self._loop.run_in_executor(None, self._tower.stop)
        self._preprocessor.close()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    # -- items ---------------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes of embeddings that there is room for."""
        return self._cache.capacity

    def fits(self, size: int) -> bool:
        """Whether an embedding of `size` bytes can ever have room."""
        return self._cache.fits(size)

    def enqueue(self, item: Item) -> None:
        """Has `item` made, in its turn. Its plan and its media are known."""
        self._queue.push(item.request_id, item)
        self._before_tower.add(item)
        item.waiting_since = time.monotonic()
        item.move(Stage.WAITING)
        self.wake()

    def withdraw(self, item: Item, error: EPDError) -> None:
        """The end of an item, from any stage but FAILED: everyone who waits for it gets `error`."""
        assert item.stage is not Stage.FAILED
        if item.stage is Stage.WAITING:
            self._queue.remove(item.request_id, item)
        if item.job is not None and self._batcher.cancel(item.job):
            item.job = None
        self._before_tower.discard(item)
        item.fail(error)
        self.release(item)

    def release(self, item: Item) -> None:
        """Somebody is done with the item's memory.

        A failed one gives its room back as soon as neither the tower nor a shipment uses it.
        """
        if item.stage is Stage.FINISHED and item.extent is not None:
            self._cache.touch(item.extent)
        elif item.stage is Stage.FAILED and item.job is None and not item.granted and item.extent is not None:
            self._cache.release(item.extent)
            item.extent = item.memory = None
        self.wake()

    def wake(self) -> None:
        """Something changed that may let the next item in: room, a grant, a turn."""
        self._turn.set()

    # -- load ----------------------------------------------------------------------------------------------------------

    def queue_seconds(self) -> float:
        """Estimated seconds until everything that is here now is encoded; from any thread."""
        before = sum(item.patches for item in list(self._before_tower))
        speed = self._tower.patches_per_second
        tower = before / speed + self._batcher.seconds_of_work(speed)
        return max(tower, before / self._preprocessor.patches_per_second)

    def seconds_without_progress(self) -> float:
        """How long the tower, or a thread that prepares an item, has not come on although it had work."""
        return max(self._batcher.seconds_without_progress(), self._preprocessor.seconds_without_progress())

    def vision_seconds(self, item: Item) -> float:
        """Estimate of what the tower needs for `item` alone."""
        return item.patches / self._tower.patches_per_second

    # -- from stage to stage -------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Starts items in fair order while there is room for them; runs as long as the engine."""
        while True:
            self._turn.clear()
            while (item := self._next()) is not None:
                self._prepare(item)
            await self._turn.wait()

    def _next(self) -> Item | None:
        """The next item to begin, its extent allocated; None while there is nothing to do or no room."""
        ahead = sum(item.patches for item in self._preparing) + self._batcher.waiting_patches
        if not self._queue or len(self._preparing) >= self._preprocessor.threads or ahead >= self._max_ahead:
            return None
        _, first = self._queue.heads()[0]
        granted = next((item for item in self._queue if item.granted), None)
        for item in (first, granted):
            if item is not None and self._allocate(item):
                self._queue.take(item.request_id, item)
                return item
        return None

    def _allocate(self, item: Item) -> bool:
        size = item.layout.total_bytes
        item.extent = self._cache.allocate(item, size, urgent=item.granted)
        if item.extent is None:
            return False
        item.memory = self._cache.view(item.extent)[:size]
        return True

    def _prepare(self, item: Item) -> None:
        item.move(Stage.PREPARING)
        self._preparing[item] = asyncio.create_task(self._preprocess(item))

    async def _preprocess(self, item: Item) -> None:
        """Decodes and cuts into patches, and passes on to the tower."""
        assert item.plan is not None
        started = time.monotonic()
        self._note(item, "queue", item.waiting_since, started)
        try:
            pixels = await self._preprocessor.prepare(
                item.plan,
                item.parts,
                stage=self._encoder.stage,
                is_cancelled=lambda: item.stage is not Stage.PREPARING,
            )
        except EPDError as error:
            self._on_failed(item, error)
        except Exception as error:  # noqa: BLE001  a decoder's surprise on one item is that item's end, not the server's
            self._faults.error(
                "preprocess", "preprocessing failed: %s", whereabouts(error), extra={"request_id": item.request_id}
            )
            self._on_failed(item, InternalError("preprocessing failed on this item"))
        else:
            self._note(item, "preprocess", started, time.monotonic())
            self._encode(item, pixels)
        finally:
            del self._preparing[item]
            self._turn.set()

    def _encode(self, item: Item, pixels: torch.Tensor) -> None:
        if item.stage is not Stage.PREPARING:  # nobody wants it any more; its thread could not be stopped
            return
        assert item.plan is not None
        item.job = Job(
            request_id=item.request_id,
            grid=item.plan.grid,
            pixels=pixels,
            layout=item.layout,
            memory=item.data,
            report=lambda event: self._post(self._on_job, item, event),
        )
        item.move(Stage.ENCODING)
        self._before_tower.remove(item)
        self._batcher.put(item.job)

    def _on_job(self, item: Item, event: JobEvent) -> None:
        """What the tower says about an item. Nobody may want it any more: then only its room is of interest."""
        match event:
            case Stopped():
                item.job = None
                self.release(item)
            case _ if item.stage is not Stage.ENCODING:
                pass
            case TensorReady(tensor=tensor):
                item.mark_ready(tensor)
            case Finished(seconds=seconds):
                assert item.job is not None
                self._note(item, "batch", item.job.put_at, item.job.taken_at)
                self._note(item, "vision", item.job.taken_at, time.monotonic(), worked=seconds)
                item.job = None
                self._metrics.items.inc()
                item.move(Stage.FINISHED)
            case Failed(error=error):
                self._on_failed(item, error)
        self._turn.set()

    def _note(self, item: Item, name: str, start: float, end: float, worked: float | None = None) -> None:
        stage = TimedStage(name=name, start=start, end=end, worked=worked)
        item.stages.append(stage)
        self._metrics.observe(stage)

    def _dispatcher_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("the pipeline broke", exc_info=task.exception())
            self._on_broken()

    def _post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Calls back on the event loop, from any thread; not any more when the loop is closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
