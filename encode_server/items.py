"""One media item on its way through the encode server, and the streams that want it.

    RECEIVING -> WAITING -> PREPARING -> ENCODING -> FINISHED
        ^           ^                                   |  room was needed
        |           +------------- a grant ---------- SHELVED
        +--- a new stream, if its media are gone too ---+

and FAILED from anywhere. Items belong to the event loop; other threads may only look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from common.embeddings import EmbeddingLayout
from common.errors import EPDError
from common.media_key import MediaKey
from common.pb import common_pb2
from common.processing import MediaOptions
from common.stages import TimedStage
from encode_server.batcher import Job
from encode_server.cache import Extent, Hold
from encode_server.media.processor import MediaPlan


class Stage(Enum):
    RECEIVING = auto()  # its media are on the way, or nobody has begun to bring them
    WAITING = auto()  # for its turn, and for room in the pool
    PREPARING = auto()  # decoded, resized and cut into patches
    ENCODING = auto()  # before or in the vision tower
    FINISHED = auto()
    SHELVED = auto()  # was finished, then its room was needed; made again if a grant, or a new stream, asks for it
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a stream asks for: `OpenEncode`, checked."""

    key: MediaKey
    kind: common_pb2.MediaKind
    options: MediaOptions
    sizes: tuple[int, ...]  # bytes of each part
    digest: bytes
    request_id: str

    def same_media(self, other: Opening) -> bool:
        return (self.kind, self.options, self.digest) == (other.kind, other.options, other.digest)


@dataclass(eq=False, kw_only=True)
class Claim:
    """A stream's share in an item."""

    item: Item
    grants: int = 0  # outstanding
    shipped: bool = False  # at least once
    found_finished: bool  # the item's work was done, and paid for, before this stream came
    transfers: list[TimedStage] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class Item:
    """What all claims on one key share. To transports it is an `Outgoing`."""

    opening: Opening  # of the stream that came first
    stage: Stage = Stage.RECEIVING
    claims: set[Claim] = field(default_factory=set)
    uploader: Claim | None = None
    parts: Sequence[bytes] = ()  # its media, while somebody may need it encoded (again)
    plan: MediaPlan | None = None
    layout_known: EmbeddingLayout | None = None
    extent: Extent[Item] | None = None
    memory: memoryview | None = None
    job: Job | None = None
    ready: set[str] = field(default_factory=set)
    error: EPDError | None = None
    waiting_since: float = 0.0  # time.monotonic()
    stages: list[TimedStage] = field(default_factory=list)  # that are over, in order
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # -- Outgoing ------------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> EmbeddingLayout:
        assert self.layout_known is not None
        return self.layout_known

    @property
    def data(self) -> memoryview:
        assert self.memory is not None
        return self.memory

    @property
    def order(self) -> tuple[str, ...]:
        """The tower taps the deepstack levels on its way; main comes out of its end."""
        main, *levels = self.layout.tensors
        return (*levels, main)

    async def wait(self, tensor: str) -> None:
        while tensor not in self.ready:
            await self.change()

    # -- owner of an extent --------------------------------------------------------------------------------------------

    @property
    def hold(self) -> Hold:
        if self.stage is not Stage.FINISHED or self.granted:
            return Hold.PINNED
        return Hold.RESERVED if any(not claim.shipped for claim in tuple(self.claims)) else Hold.FREE

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def key(self) -> MediaKey:
        return self.opening.key

    @property
    def request_id(self) -> str:
        return self.opening.request_id

    @property
    def granted(self) -> bool:
        return any(claim.grants for claim in tuple(self.claims))  # a copy: metrics are read from another thread

    @property
    def patches(self) -> int:
        return self.plan.grid.patches if self.plan else 0

    @property
    def media_bytes(self) -> int:
        """What its media take, or will take when they are here."""
        return sum(self.opening.sizes) if self.parts or self.stage is Stage.RECEIVING else 0

    @property
    def begun(self) -> bool:
        """Work went into it that would be lost elsewhere."""
        return self.stage in (Stage.PREPARING, Stage.ENCODING, Stage.FINISHED)

    @property
    def is_lost(self) -> bool:
        """It can only be made again by somebody who brings the media once more."""
        return self.stage is Stage.SHELVED and not self.parts

    def move(self, stage: Stage) -> None:
        self.stage = stage
        self.notify()

    def shelve(self) -> None:
        """Its room went to another item."""
        assert self.hold is not Hold.PINNED
        self.extent = self.memory = None
        self.ready.clear()
        self.stages.clear()
        self.move(Stage.SHELVED)

    def mark_ready(self, tensor: str) -> None:
        self.ready.add(tensor)
        self.notify()

    def fail(self, error: EPDError) -> None:
        self.error = error
        self.move(Stage.FAILED)

    def notify(self) -> None:
        """Wakes everyone in `change`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Returns after the next change; raises the item's error if it has failed."""
        if self.error is None:
            await self._changed.wait()
        if self.error is not None:
            raise type(self.error)(self.error.message)  # one exception for each who waits: they go different ways
