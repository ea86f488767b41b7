"""The encode engine: who wants which item. How items are made is the pipeline's business.

streams --join--> claims on items --media here--> Pipeline --> finished, in the pool --grants--> shipments
                                      ^                             |  room was needed
                                      +-------- a grant ------- shelved
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence

from common.errors import (
    BadMediaError,
    CancelledError,
    EPDError,
    InvalidRequestError,
    MovedError,
    OverloadedError,
    UnavailableError,
)
from common.media_key import MediaKey
from common.pb import common_pb2
from encode_server.encoder import Encoder
from encode_server.items import Claim, Item, Opening, Stage
from encode_server.media.processor import MediaPlan
from encode_server.metrics import EncodeMetrics
from encode_server.pipeline import Pipeline
from encode_server.preprocessor import Preprocessor

log = logging.getLogger(__name__)


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
        self._encoder = encoder
        self._preprocessor = preprocessor
        self._metrics = metrics
        self._pipeline = Pipeline(
            encoder,
            preprocessor,
            metrics,
            cache_bytes=cache_bytes,
            max_batch_patches=max_batch_patches,
            on_failed=self._fail,
            on_evicted=self._evicted,
            on_broken=self._break,
        )
        self._max_items = max_waiting_items
        self._max_bytes = max_waiting_bytes
        self._items: dict[MediaKey, Item] = {}
        self._live: set[Item] = set()  # those that streams have a claim on
        self._idle = asyncio.Event()  # no stream is left
        self._probed_bytes = 0
        self._draining = False
        self.broken = asyncio.Event()  # the device is gone; the process had better end
        metrics.watch_load(self.load)

    async def start(self) -> None:
        """Warms the tower up and begins to work."""
        await self._pipeline.start()

    async def stop(self) -> None:
        """Ends at once; the batch that the tower is at is finished."""
        await self._pipeline.stop()

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
        if not self._pipeline.fits(size):
            raise BadMediaError(
                f"the embedding of this item has {size} bytes, and the encode server holds {self._pipeline.capacity}"
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
        if item is None or item.is_lost:
            self._check_room(opening)
            self._metrics.pool.misses.inc()
            if item is None:
                item = self._items[opening.key] = Item(opening=opening)
            else:
                item.move(Stage.RECEIVING)  # others still hold it, so this is where it is made again
        else:
            self._metrics.pool.hits.inc()
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
        self._pipeline.enqueue(item)

    def begin_grant(self, claim: Claim) -> None:
        """A language server wants the item now; from here to `end_grant` it stays in the pool once it is there.

        Raises:
            UnavailableError: the item made room for others, and its media are gone too.
        """
        item = claim.item
        if item.is_lost or item.stage is Stage.RECEIVING:
            raise UnavailableError("the embedding made room for others meanwhile; send the media again")
        if item.stage is Stage.SHELVED:
            claim.found_finished = False
            self._pipeline.enqueue(item)
        claim.grants += 1
        self._pipeline.wake()  # it may overtake now

    def end_grant(self, claim: Claim, *, shipped: bool) -> None:
        """The item was shipped, or could not be."""
        claim.grants -= 1
        claim.shipped = claim.shipped or shipped
        self._pipeline.release(claim.item)

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
        self._pipeline.wake()

    # -- state of the whole --------------------------------------------------------------------------------------------

    def load(self) -> common_pb2.Load:
        """What waits and what runs; from any thread."""
        stages = [item.stage for item in list(self._live)]  # a copy: metrics are read from a thread of their own
        return common_pb2.Load(
            queue_seconds=self._pipeline.queue_seconds(),
            running=stages.count(Stage.PREPARING) + stages.count(Stage.ENCODING),
            waiting=stages.count(Stage.WAITING) + stages.count(Stage.RECEIVING),
            draining=self._draining,
        )

    def seconds_without_progress(self) -> float:
        """How long the tower, or a thread that prepares an item, has not come on although it had work."""
        return self._pipeline.seconds_without_progress()

    def vision_seconds(self, item: Item) -> float:
        """Estimate of what the tower needs for `item` alone."""
        return self._pipeline.vision_seconds(item)

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

    def _evicted(self, item: Item) -> None:
        self._metrics.pool.evictions.inc()
        item.shelve()
        if not item.claims:
            del self._items[item.key]

    def _fail(self, item: Item, error: EPDError) -> None:
        if item.stage is not Stage.FAILED:
            del self._items[item.key]
            item.parts = ()
            self._pipeline.withdraw(item, error)

    def _break(self) -> None:
        for item in list(self._live):
            self._fail(item, UnavailableError("this encode server's device failed"))
        self._draining = True
        self.broken.set()
