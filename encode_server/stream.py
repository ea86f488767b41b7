"""One `Encode` stream: what a router says and hears about one media item, in the order of proto/encode.proto."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

from common.errors import (
    BadMediaError,
    DeadlineError,
    InvalidRequestError,
    ModelMismatchError,
)
from common.pb import common_pb2, embedding_pb2, encode_pb2
from common.processing import MediaOptions
from encode_server.account import StreamAccount
from encode_server.engine import EncodeEngine
from encode_server.items import Claim, Item, Opening
from encode_server.media.processor import MediaPlan
from encode_server.shipper import Shipper
from encode_server.uploads import Upload

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[encode_pb2.EncodeCommand, encode_pb2.EncodeEvent]

_DIGEST_BYTES = 32  # SHA-256


class EncodeStream:
    """From `open` to the last event; one for each call of the service.

    Args:
        account: of this stream.
        fingerprint: of the model that is served; streams for another are refused.
        max_item_bytes: media bytes of one item.
    """

    def __init__(
        self,
        context: Context,
        engine: EncodeEngine,
        shipper: Shipper,
        account: StreamAccount,
        *,
        fingerprint: bytes,
        max_item_bytes: int,
    ) -> None:
        self._context = context
        self._engine = engine
        self._shipper = shipper
        self._account = account
        self._fingerprint = fingerprint
        self._max_item_bytes = max_item_bytes
        self._events: asyncio.Queue[encode_pb2.EncodeEvent | None] = asyncio.Queue()  # None: the last one was put

    async def run(self) -> None:
        """From the first command to the last event; returns only when nothing is held for the stream any more."""
        writing = asyncio.create_task(self._write())
        try:
            await self._serve()
        except asyncio.CancelledError:
            self._account.abort()
            writing.cancel()
            raise
        except Exception as error:  # noqa: BLE001  the boundary of the process: everything becomes one last event
            self._send(encode_pb2.EncodeEvent(error=self._account.fail(error).to_wire()))
        else:
            self._account.finish()
        finally:
            self._events.put_nowait(None)
            await asyncio.gather(writing, return_exceptions=True)  # whom it can't reach any more is gone

    async def _serve(self) -> None:
        command = await self._read()
        if command is None or command.WhichOneof("command") != "open":
            raise InvalidRequestError("an encode stream begins with `open`")
        self._account.open(command.open)
        opening = self._check(command.open)
        try:
            async with asyncio.timeout(command.open.deadline_seconds or None):
                await (self._probe(opening) if command.open.is_probe else self._encode(opening))
        except TimeoutError:
            raise DeadlineError("the deadline passed before the item was encoded and shipped") from None

    async def _encode(self, opening: Opening) -> None:
        claim = self._engine.join(opening)
        self._account.accept()
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_until_failure(claim.item))
                send_media = await self._engine.has_to_upload(claim)
                self._accept(send_media=send_media)
                if send_media:
                    parts = await self._receive(opening)
                    with self._account.stage("header"):
                        await self._engine.deliver(claim, parts)
                assert claim.item.plan is not None
                self._send(encode_pb2.EncodeEvent(metadata=_metadata(claim.item.plan)))
                async with asyncio.TaskGroup() as shipments:
                    async for grant in self._grants():
                        shipments.create_task(self._ship(claim, grant))
                watching.cancel()
        finally:
            made = [] if claim.found_finished else claim.item.stages
            self._account.add(*made, *claim.transfers)
            self._engine.leave(claim)

    async def _probe(self, opening: Opening) -> None:
        """Metadata only: nothing is encoded, nothing is kept."""
        plan = self._engine.known(opening)
        self._accept(send_media=plan is None)
        if plan is None:
            with self._engine.holding(opening):
                parts = await self._receive(opening)
                with self._account.stage("header"):
                    plan = await self._engine.plan(opening, parts)
        self._send(encode_pb2.EncodeEvent(metadata=_metadata(plan)))

    async def _ship(self, claim: Claim, grant: embedding_pb2.Grant) -> None:
        self._send(await self._shipper.ship(claim, grant))

    # -- commands and events -------------------------------------------------------------------------------------------

    def _check(self, message: encode_pb2.OpenEncode) -> Opening:
        """What `open` asks for, if it can be asked for here."""
        if message.fingerprint != self._fingerprint:
            raise ModelMismatchError("the encode server holds another model than the request is for")
        for name, value in (("key", message.key), ("media_digest", message.media_digest)):
            if len(value) != _DIGEST_BYTES:
                raise InvalidRequestError(f"{name} has {len(value)} bytes, not {_DIGEST_BYTES}")
        if message.kind not in (common_pb2.IMAGE, common_pb2.VIDEO, common_pb2.FRAMES):
            raise InvalidRequestError(f"no such kind of media: {message.kind}")
        if len(UnknownFieldSet(message.options)):
            raise InvalidRequestError("the media options have one that this version does not know")
        if not message.sizes or (len(message.sizes) > 1 and message.kind != common_pb2.FRAMES):
            raise InvalidRequestError(f"{len(message.sizes)} parts for one item")
        if sum(message.sizes) > self._max_item_bytes:
            raise BadMediaError(
                f"the media have {sum(message.sizes)} bytes, over the limit of {self._max_item_bytes} for one item"
            )
        if not (message.deadline_seconds >= 0 and math.isfinite(message.deadline_seconds)):
            raise InvalidRequestError(f"a deadline in {message.deadline_seconds} seconds")
        try:
            options = MediaOptions.from_wire(message.options)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        return Opening(
            key=message.key,
            kind=message.kind,
            options=options,
            sizes=tuple(message.sizes),
            digest=message.media_digest,
            # without an id each stream is a request of its own, or all of them would share one turn
            request_id=message.request_id or f"stream {id(self)}",
        )

    def _accept(self, *, send_media: bool) -> None:
        self._send(encode_pb2.EncodeEvent(accepted=encode_pb2.EncodeAccepted(send_media=send_media)))

    async def _receive(self, opening: Opening) -> Sequence[bytes]:
        """The media's parts, complete and checked against their digest."""
        upload = Upload(sizes=opening.sizes, digest=opening.digest)
        with self._account.stage("receive"):
            while not upload.complete:
                command = await self._read()
                if command is None or command.WhichOneof("command") != "chunk":
                    raise InvalidRequestError("the media ended before all their bytes were sent")
                upload.add(command.chunk.data)
            return await asyncio.to_thread(upload.parts)  # hashing hundreds of megabytes takes a while

    async def _grants(self) -> AsyncIterator[embedding_pb2.Grant]:
        """Until the router needs no more."""
        while (command := await self._read()) is not None:
            if command.WhichOneof("command") != "grant":
                raise InvalidRequestError("only grants can follow the media")
            yield command.grant

    async def _read(self) -> encode_pb2.EncodeCommand | None:
        """The next command; None once the router has half-closed."""
        command: Any = await self._context.read()
        return None if command is grpc.aio.EOF else command  # type: ignore[attr-defined]

    def _send(self, event: encode_pb2.EncodeEvent) -> None:
        event.load.CopyFrom(self._engine.load())
        self._events.put_nowait(event)

    async def _write(self) -> None:
        """Alone writes to the stream: a write that is cancelled half-way would block all after it."""
        while (event := await self._events.get()) is not None:
            await self._context.write(event)


async def _until_failure(item: Item) -> None:
    """Raises the item's error when it fails; never returns."""
    while True:
        await item.change()


def _metadata(plan: MediaPlan) -> common_pb2.MediaMetadata:
    grid = common_pb2.Grid(t=plan.grid.t, h=plan.grid.h, w=plan.grid.w)
    return common_pb2.MediaMetadata(grid=grid, rows=plan.rows, timestamps=plan.timestamps)
