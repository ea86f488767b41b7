"""The encode engine: items from their media to the pool, for as long as somebody wants them.

    streams --join--> items --> fair queue --room in the pool--> preprocessing threads --> batcher --> tower thread
                                    ^                                                                       |
                                    +--- a grant for a shelved item          finished in the pool <--------+

It lives on the event loop; what comes from the tower's thread is posted to the loop first. Room in the pool is the only
thing that items wait for besides their turn. Without grants they wait in order; an item that has a grant may also take
room from finished ones that have none: it will be shipped and done with, so the servers can't block one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVarTuple

import torch

from common.errors import (
    BadMediaError,
    CancelledError,
    EPDError,
    InternalError,
    InvalidRequestError,
    MovedError,
    OverloadedError,
    UnavailableError,
)
from common.media_key import MediaKey
from common.pb import common_pb2
from encode_server.batcher import Batcher, Failed, Finished, Job, JobEvent, Stopped, TensorReady
from encode_server.cache import EmbeddingCache
from encode_server.encoder import Encoder
from encode_server.fair_queue import FairQueue
from encode_server.items import Claim, Item, Opening, Stage
from encode_server.media.processor import MediaPlan
from encode_server.metrics import EncodeMetrics
from encode_server.preprocessor import Preprocessor
from encode_server.tower import Tower

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # preprocessed and not yet taken by the tower: one to keep it busy, one in the making
_Args = TypeVarTuple("_Args")
_CACHE = "embeddings"  # label of the cache metrics


class EncodeEngine:
    """One for each server.

    Args:
        max_waiting_items: items that are not finished, beyond which new ones are refused.
        max_waiting_bytes: media bytes held, the same.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessor: Preprocessor,
        metrics: EncodeMetrics,
        *,
        cache_bytes: int,
        max_batch_patches: int,
        max_waiting_items: int,
        max_waiting_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._encoder = encoder
        self._preprocessor = preprocessor
        self._metrics = metrics
        self._cache = EmbeddingCache(encoder.buffer(cache_bytes), on_evict=self._evicted)
        self._batcher = Batcher(max_batch_patches)
        self._tower = Tower(
            encoder,
            self._batcher,
            metrics,
            on_batch=lambda: self._post(self._turn.set),
            on_broken=lambda: self._post(self._break),
        )
        self._max_ahead = _BATCHES_AHEAD * max_batch_patches
        self._max_items = max_waiting_items
        self._max_bytes = max_waiting_bytes
        self._items: dict[MediaKey, Item] = {}
        self._live: set[Item] = set()  # those that streams have a claim on
        self._queue: FairQueue[Item] = FairQueue()
        self._preparing: dict[Item, asyncio.Task[None]] = {}
        self._turn = asyncio.Event()  # something changed that may let the next item in
        self._idle = asyncio.Event()  # no stream is left
        self._probed_bytes = 0
        self._draining = False
        self.broken = asyncio.Event()  # the device is gone; the process had better end
        metrics.watch("epd_cache_bytes", "Bytes of embeddings in the pool", lambda: self._cache.used_bytes)
        metrics.watch("epd_cache_pins", "Embeddings that can't make room now", lambda: self._cache.pins)
        metrics.watch("epd_queue_seconds", "Seconds of work in the queue", self.queue_seconds)
        metrics.watch("epd_requests_running", "Items being prepared or encoded", lambda: self.load().running)
        metrics.watch("epd_requests_waiting", "Items that wait", lambda: self.load().waiting)

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

    # -- streams -------------------------------------------------------------------------------------------------------

    def known(self, opening: Opening) -> MediaPlan | None:
        """What becomes of the item, if that is known already; for streams that want no more than that.

        Raises:
            UnavailableError, InvalidRequestError: as `join`.
        """
        item = self._find(opening)
        return item.plan if item is not None else None

    @contextlib.contextmanager
    def holding(self, opening: Opening) -> Iterator[None]:
        """Room for media that are only looked at. Raises OverloadedError as `join` does."""
        self._check_room(opening)
        self._probed_bytes += sum(opening.sizes)
        try:
            yield
        finally:
            self._probed_bytes -= sum(opening.sizes)

    async def plan(self, opening: Opening, parts: Sequence[bytes]) -> MediaPlan:
        """Reads the header of media that are here.

        Raises:
            BadMediaError: they can't be used, or their embedding would not fit into the pool.
            InvalidRequestError: the options can't be honoured.
        """
        plan = await self._preprocessor.plan(opening.kind, parts, opening.options)
        size = self._encoder.layout(plan.rows).total_bytes
        if not self._cache.fits(size):
            raise BadMediaError(
                f"the embedding of this item has {size} bytes, and the encode server holds {self._cache.capacity}"
            )
        return plan

    def join(self, opening: Opening) -> Claim:
        """A share in the work on `opening.key`, new or under way.

        Raises:
            UnavailableError: the server drains.
            OverloadedError: the queue is full.
            InvalidRequestError: the key stands for other media here, so one of both is wrong.
        """
        item = self._find(opening)
        if item is None:
            self._check_room(opening)
            item = self._items[opening.key] = Item(opening=opening)
            self._metrics.cache_misses.labels(cache=_CACHE).inc()
        else:
            self._metrics.cache_hits.labels(cache=_CACHE).inc()
        claim = Claim(item=item, found_finished=item.stage is Stage.FINISHED)
        item.claims.add(claim)
        self._live.add(item)
        return claim

    async def has_to_upload(self, claim: Claim) -> bool:
        """Whether this stream has to bring the media.

        While another one does, this waits; and takes over if that one leaves without having done so.
        """
        item = claim.item
        while item.stage is Stage.RECEIVING:
            if item.uploader is None:
                item.uploader = claim
                return True
            await item.change()
        return False

    async def deliver(self, claim: Claim, parts: Sequence[bytes]) -> None:
        """The media are here, and are what their digest says: reads their header and puts the item in the queue."""
        item = claim.item
        assert item.uploader is claim
        try:
            plan = await self.plan(item.opening, parts)
        except EPDError as error:
            self._fail(item, error)
            raise
        if item.error is not None:
            raise item.error
        item.plan, item.parts, item.layout_known = plan, parts, self._encoder.layout(plan.rows)
        self._enqueue(item)

    def begin_grant(self, claim: Claim) -> None:
        """A language server wants the item now; from here to `end_grant` it stays in the pool once it is there.

        Raises:
            UnavailableError: the item made room for others, and its media are gone too.
        """
        item = claim.item
        if item.stage is Stage.SHELVED:
            if not item.parts:
                raise UnavailableError("the embedding made room for others meanwhile; send the media again")
            claim.found_finished = False
            self._enqueue(item)
        claim.grants += 1
        self._turn.set()  # it may overtake now

    def end_grant(self, claim: Claim, *, shipped: bool) -> None:
        """The item was shipped, or could not be."""
        claim.grants -= 1
        claim.shipped = claim.shipped or shipped
        if claim.item.extent is not None and claim.item.stage is Stage.FINISHED:
            self._cache.touch(claim.item.extent)
        self._release(claim.item)
        self._turn.set()

    def leave(self, claim: Claim) -> None:
        """The stream is over. The last one to leave takes unfinished work with it."""
        item = claim.item
        item.claims.remove(claim)
        if item.uploader is claim:
            item.uploader = None
            item.notify()
        if not item.claims:
            self._live.remove(item)
            if item.stage is Stage.FINISHED:
                item.parts = ()
            else:
                self._fail(item, CancelledError("nobody wants this item any more"))
        if not self._live:
            self._idle.set()
        self._turn.set()

    # -- state of the whole --------------------------------------------------------------------------------------------

    def queue_seconds(self) -> float:
        """Estimated seconds until everything that is here now is encoded."""
        before = sum(item.patches for item in self._queue) + sum(item.patches for item in self._preparing)
        speed = self._tower.patches_per_second
        tower = before / speed + self._batcher.seconds_of_work(speed)
        return max(tower, before / self._preprocessor.patches_per_second)

    def load(self) -> common_pb2.Load:
        stages = [item.stage for item in self._live]
        return common_pb2.Load(
            queue_seconds=self.queue_seconds(),
            running=stages.count(Stage.PREPARING) + stages.count(Stage.ENCODING),
            waiting=stages.count(Stage.WAITING) + stages.count(Stage.RECEIVING),
            draining=self._draining,
        )

    def seconds_without_progress(self) -> float:
        """How long the tower has finished nothing although it had work."""
        return self._batcher.seconds_without_progress()

    def vision_seconds(self, item: Item) -> float:
        """Estimate of what the tower needs for `item` alone."""
        return item.patches / self._tower.patches_per_second

    async def drain(self, seconds: float) -> None:
        """Takes nothing new, hands back what is not begun, and waits until all streams are gone or time is up.

        What is left then is handed back too.
        """
        self._draining = True
        self._hand_back(only_unbegun=True)
        try:
            async with asyncio.timeout(seconds):
                while self._live:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.warning("draining took longer than %g s", seconds)
        self._hand_back(only_unbegun=False)

    def _hand_back(self, *, only_unbegun: bool) -> None:
        for item in list(self._live):
            if not (only_unbegun and item.begun):
                self._fail(item, MovedError("this encode server is shutting down"))

    # -- the way of an item --------------------------------------------------------------------------------------------

    def _find(self, opening: Opening) -> Item | None:
        if self._draining:
            raise UnavailableError("this encode server is shutting down")
        item = self._items.get(opening.key)
        if item is not None and not item.opening.same_media(opening):
            raise InvalidRequestError("the media key is in use for other media or options")
        return item

    def _check_room(self, opening: Opening) -> None:
        unfinished = sum(item.stage is not Stage.FINISHED for item in self._live)
        if unfinished >= self._max_items:
            raise OverloadedError(f"{unfinished} media items wait at this encode server already")
        held = self._probed_bytes + sum(item.media_bytes for item in self._live)
        if held + sum(opening.sizes) > self._max_bytes:
            raise OverloadedError(f"this encode server holds {held} bytes of media already")

    def _enqueue(self, item: Item) -> None:
        self._queue.push(item.request_id, item)
        item.move(Stage.WAITING)
        self._turn.set()

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

    def _evicted(self, item: Item) -> None:
        self._metrics.evictions.labels(cache=_CACHE).inc()
        item.shelve()
        if not item.claims:
            del self._items[item.key]

    def _prepare(self, item: Item) -> None:
        item.move(Stage.PREPARING)
        self._preparing[item] = asyncio.create_task(self._preprocess(item))

    async def _preprocess(self, item: Item) -> None:
        """Decodes and cuts into patches, and passes on to the tower."""
        assert item.plan is not None
        started = time.monotonic()
        try:
            pixels = await self._preprocessor.prepare(
                item.plan,
                item.parts,
                stage=self._encoder.stage,
                is_cancelled=lambda: item.stage is not Stage.PREPARING,
            )
        except EPDError as error:
            self._fail(item, error)
        except Exception:  # a decoder's surprise on one item is that item's end, not the server's
            log.exception("preprocessing failed", extra={"request_id": item.request_id})
            self._fail(item, InternalError("preprocessing failed on this item"))
        else:
            self._note(item, "preprocess", time.monotonic() - started)
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
        self._batcher.put(item.job)

    def _on_job(self, item: Item, event: JobEvent) -> None:
        """What the tower says about an item. Nobody may want it any more: then only its room is of interest."""
        match event:
            case Stopped():
                item.job = None
                self._release(item)
            case _ if item.stage is not Stage.ENCODING:
                pass
            case TensorReady(tensor=tensor):
                item.mark_ready(tensor)
            case Finished(seconds=seconds):
                item.job = None
                self._note(item, "vision", seconds)
                self._metrics.items.inc()
                item.move(Stage.FINISHED)
            case Failed(error=error):
                self._fail(item, error)
        self._turn.set()

    def _fail(self, item: Item, error: EPDError) -> None:
        """The end of an item, from any stage: everyone who waits for it gets `error`."""
        if item.stage is Stage.FAILED:
            return
        if item.stage is Stage.WAITING:
            self._queue.remove(item.request_id, item)
        if item.job is not None and self._batcher.cancel(item.job):
            item.job = None
        del self._items[item.key]
        item.parts = ()
        item.fail(error)
        self._release(item)
        self._turn.set()

    def _release(self, item: Item) -> None:
        """Gives the room of a failed item back, as soon as neither the tower nor a shipment uses it."""
        if item.stage is Stage.FAILED and item.job is None and not item.granted and item.extent is not None:
            self._cache.release(item.extent)
            item.extent = item.memory = None

    def _note(self, item: Item, stage: str, seconds: float) -> None:
        item.seconds[stage] = seconds
        self._metrics.stage_seconds.labels(stage=stage).observe(seconds)

    def _dispatcher_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("the encode engine broke", exc_info=task.exception())
            self._break()

    def _break(self) -> None:
        for item in list(self._live):
            self._fail(item, UnavailableError("this encode server's device failed"))
        self._draining = True
        self.broken.set()

    def _post(self, callback: Callable[[*_Args], object], *args: *_Args) -> None:
        """Calls back on the event loop, from any thread; not any more when the loop is closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
