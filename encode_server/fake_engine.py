"""The fake encode server's items: made-up embeddings, kept as long as there is room for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator

from common.embeddings import EmbeddingLayout
from common.errors import BadMediaError, InternalError, MovedError, OverloadedError, UnavailableError
from common.fake_embeddings import fake_embedding
from common.media_key import MediaKey
from common.pb import common_pb2
from common.stages import TimedStage
from encode_server.fake_faults import Faults
from encode_server.metrics import EncodeMetrics


class FakeItem:
    """An item that is finished or in the making; an `Outgoing` of the data plane."""

    def __init__(self, *, key: MediaKey, metadata: common_pb2.MediaMetadata, layout: EmbeddingLayout) -> None:
        self.key = key
        self.metadata = metadata
        self.layout = layout
        self.users = 0
        self.seconds = 0.0  # that the tower takes for it
        self.work: asyncio.Task[bytes] | None = None
        self.stages: list[TimedStage] = []  # that are over

    @contextlib.contextmanager
    def stage(self, name: str, metrics: EncodeMetrics) -> Iterator[None]:
        """What is inside is a stage of the item, if it succeeds."""
        start = time.monotonic()
        yield
        self.stages.append(TimedStage(name=name, start=start, end=time.monotonic()))
        metrics.observe(self.stages[-1])

    @property
    def data(self) -> memoryview:
        assert self.work is not None
        return memoryview(self.work.result())

    @property
    def order(self) -> tuple[str, ...]:
        main, *levels = self.layout.tensors
        return (*levels, main)

    @property
    def finished(self) -> bool:
        return self.work is not None and self.work.done()

    async def wait(self, tensor: str) -> None:
        """Returns once the whole item is made; raises why it never will be."""
        assert self.work is not None
        await asyncio.shield(self.work)


class FakeEngine:
    """Makes one item after another, as a vision tower without batching would.

    Args:
        shape: a layout of the model's hidden size, levels and dtype; its rows don't matter.
        capacity: bytes of embeddings that are kept.
        max_waiting_items: unfinished items beyond which new ones are refused.
        delay: seconds that an item takes.
        delay_per_row: seconds that it takes on top for each visual token.
    """

    def __init__(
        self,
        *,
        shape: EmbeddingLayout,
        capacity: int,
        max_waiting_items: int,
        delay: float,
        delay_per_row: float,
        faults: Faults,
        metrics: EncodeMetrics,
    ) -> None:
        self._shape = shape
        self._capacity = capacity
        self._max_waiting_items = max_waiting_items
        self._delay = delay
        self._delay_per_row = delay_per_row
        self._faults = faults
        self._metrics = metrics
        self._items: OrderedDict[MediaKey, FakeItem] = OrderedDict()  # least recently used first
        self._tower = asyncio.Lock()
        self._no_users = asyncio.Event()
        self._no_users.set()
        self.draining = False
        metrics.watch_load(self.load)
        metrics.watch_pool(
            used_bytes=self._bytes, entries=lambda: len(self._items), pins=self._pins, capacity=self._capacity
        )

    def check_open(self) -> None:
        """Raises UnavailableError while the server drains, OverloadedError while its queue is full."""
        if self.draining:
            raise UnavailableError("this encode server is shutting down")
        unfinished = sum(not item.finished for item in self._items.values())
        if unfinished >= self._max_waiting_items:
            raise OverloadedError(f"{unfinished} media items wait at this encode server already")

    def known(self, key: MediaKey) -> FakeItem | None:
        """The item if it is finished or in the making."""
        item = self._items.get(key)
        (self._metrics.pool.misses if item is None else self._metrics.pool.hits).inc()
        return item

    def add(self, key: MediaKey, metadata: common_pb2.MediaMetadata) -> FakeItem:
        """Begins an item, or joins the one that another stream began meanwhile.

        Raises:
            BadMediaError: it is larger than everything that can be kept.
        """
        if (known := self._items.get(key)) is not None:
            return known
        shape = self._shape
        layout = EmbeddingLayout(rows=metadata.rows, hidden=shape.hidden, levels=shape.levels, dtype=shape.dtype)
        if layout.total_bytes > self._capacity:
            raise BadMediaError(
                f"the embedding of this item has {layout.total_bytes} bytes,"
                f" and the encode server holds {self._capacity} at most"
            )
        item = self._items[key] = FakeItem(key=key, metadata=metadata, layout=layout)
        item.seconds = self._delay + self._delay_per_row * metadata.rows
        item.work = asyncio.create_task(self._make(item))
        item.work.add_done_callback(lambda work: self._made(item, work))
        return item

    @contextlib.contextmanager
    def use(self, item: FakeItem) -> Iterator[None]:
        """Keeps the item; the last user to leave takes an unfinished one with it."""
        item.users += 1
        self._no_users.clear()
        if item.key in self._items:
            self._items.move_to_end(item.key)
        try:
            yield
        finally:
            item.users -= 1
            if not item.users and not item.finished:
                assert item.work is not None
                item.work.cancel()
                self._items.pop(item.key, None)
            self._make_room()
            if not self._pins():
                self._no_users.set()

    def load(self) -> common_pb2.Load:
        unfinished = [item for item in self._items.values() if not item.finished]
        running = int(self._tower.locked())
        return common_pb2.Load(
            queue_seconds=sum(item.seconds for item in unfinished),
            running=running,
            waiting=max(0, len(unfinished) - running),
            draining=self.draining,
        )

    async def drain(self, seconds: float) -> None:
        """Hands back what is not begun and waits until nobody uses an item, or time is up."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_users.wait(), seconds)

    async def _make(self, item: FakeItem) -> bytes:
        with item.stage("queue", self._metrics):
            await self._tower.acquire()
        try:
            if self.draining:
                raise MovedError("this encode server is shutting down")
            with item.stage("vision", self._metrics):
                await asyncio.sleep(item.seconds)
                if self._faults.fails():
                    raise InternalError("the fake encode server failed on this item, as it was asked to")
                embedding = await asyncio.to_thread(fake_embedding, item.key, item.layout)
        finally:
            self._tower.release()
        self._metrics.batches.inc()
        self._metrics.items.inc()
        return embedding

    def _made(self, item: FakeItem, work: asyncio.Task[bytes]) -> None:
        """Failed items are forgotten: the next stream tries again."""
        if (work.cancelled() or work.exception() is not None) and self._items.get(item.key) is item:
            del self._items[item.key]
        self._make_room()

    def _make_room(self) -> None:
        """Evicts finished items that nobody uses, least recently used first."""
        for item in list(self._items.values()):
            if self._bytes() <= self._capacity:
                return
            if item.finished and not item.users:
                del self._items[item.key]
                self._metrics.pool.evictions.inc()

    def _bytes(self) -> int:
        return sum(item.layout.total_bytes for item in self._items.values())

    def _pins(self) -> int:
        return sum(item.users > 0 for item in self._items.values())
