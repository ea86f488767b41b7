"""Media items on the encode servers: the client's side of `EncodeService.Encode`, with all of its retries.

open -> accepted -> [media] -> metadata -> grants ... -> shipped ... -> half-close
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from common.errors import (
    DeadlineError,
    EPDError,
    InternalError,
    InvalidRequestError,
    MediaLostError,
    MovedError,
    OverloadedError,
    UnavailableError,
    from_rpc_error,
    from_wire,
)
from common.logs import whereabouts
from common.pb import common_pb2, embedding_pb2, encode_pb2, encode_pb2_grpc
from common.rpc import CHUNK_BYTES
from common.tracing import Span
from router.fleet.fleet import Fleet
from router.fleet.servers import EncodeServer
from router.metrics import RouterMetrics
from router.problems import MediaExpiredError

_BACKOFF_S = 0.2  # before a server is tried again, times the number of tries so far
_GOODBYE_S = 5.0  # from the half-close to the server's last word


@dataclass(frozen=True, kw_only=True)
class MediaItem:
    """One image or video of a request."""

    key: bytes
    kind: common_pb2.MediaKind
    options: common_pb2.MediaOptions
    sizes: tuple[int, ...]  # bytes: one number, or one a frame
    parts: tuple[bytes, ...] | None  # the bytes; None: they were sent with an earlier request, and are not kept
    digest: bytes
    param: str  # where it stands in the request, "messages[0].content[1]"


@dataclass(frozen=True, kw_only=True)
class ItemKnown:
    """The size of an item has become known."""

    key: bytes


@dataclass(frozen=True, kw_only=True)
class ItemFailed:
    """No encode server could do it."""

    key: bytes
    error: EPDError


@dataclass(frozen=True, kw_only=True)
class GrantFailed:
    """The encode server that had this grant will not use it."""

    key: bytes
    handle: int
    grant_id: bytes


EncodeMessage = ItemKnown | ItemFailed | GrantFailed
# What a stream's writer sends, in order: the media are cut as they go. None half-closes.
_Commands = asyncio.Queue[Iterable[encode_pb2.EncodeCommand] | None]


class ItemEncode:
    """One item of one request, at one encode server at a time. It may be opened and closed again and again.

    Args:
        item: what to encode.
        fleet: where encode servers are found.
        post: tells the request what happens.
        metrics: counts retries.
        request_id: for the server's log.
        span: of the request.
        attempts: servers that are tried each time it is opened.
        answer_timeout: seconds until the item's size must be known.
        deadline: of the request, in the event loop's time.
        pin: the only server that may have it, in one attempt; None: any.
        metadata: of the item, if it is known from an earlier request.
    """

    def __init__(
        self,
        item: MediaItem,
        *,
        fleet: Fleet,
        post: Callable[[EncodeMessage], None],
        metrics: RouterMetrics,
        request_id: str,
        span: Span,
        attempts: int,
        answer_timeout: float,
        deadline: float,
        metadata: common_pb2.MediaMetadata | None,
        pin: EncodeServer | None = None,
    ) -> None:
        self.item = item
        self.metadata = metadata
        self.times: dict[str, float] = {}  # milliseconds by stage, of the last shipment
        self._fleet = fleet
        self._post = post
        self._metrics = metrics
        self._request_id = request_id
        self._span = span
        self._attempts = attempts if pin is None else 1
        self._pin = pin
        self._answer_timeout = answer_timeout
        self._deadline = deadline
        self._grants: dict[bytes, tuple[int, embedding_pb2.Grant]] = {}  # handed over, not yet shipped
        self._task: asyncio.Task[None] | None = None
        self._commands: _Commands = asyncio.Queue()
        self._answered = False  # by the server that has the item now
        self._closing = False

    def open(self) -> None:
        """Starts encoding, unless it has been started."""
        if self._task is None or self._task.done() or self._closing:
            previous, self._closing = self._task, False
            if previous is not None:
                previous.cancel()
            self._task = asyncio.create_task(self._run(), name=f"encode {self._request_id}")

    def grant(self, handle: int, grant: embedding_pb2.Grant) -> None:
        """Has the item shipped to the language server that gave `grant` to the request `handle`."""
        self._grants[grant.id] = (handle, grant)
        already_open = self._task is not None and not self._task.done() and not self._closing
        self.open()
        if already_open and self._answered:
            self._commands.put_nowait([encode_pb2.EncodeCommand(grant=grant)])

    def forget(self, handle: int) -> None:
        """The request `handle` is no longer at the server that gave its grants: what becomes of them is no failure."""
        self._grants = {key: given for key, given in self._grants.items() if given[0] != handle}

    def close(self) -> None:
        """Nothing more is needed: a shipment on its way may end, the rest is dropped."""
        if self._task is None or self._task.done() or self._closing:
            return
        self._closing = True
        if self._answered:
            # The language server may have been quicker with its word than the encode server, which still has to tell
            # its times. Without a grant, what is not finished is dropped as soon as the server hears of this.
            self._commands.put_nowait(None)
            asyncio.get_running_loop().call_later(_GOODBYE_S, self._task.cancel)
        else:
            self._task.cancel()
        self._grants.clear()

    async def wait_closed(self) -> None:
        """After `close`: until the encode server has told its times, or took too long."""
        if self._task is not None and self._closing:
            await asyncio.wait([self._task])

    async def cancel(self) -> None:
        """Drops the item at once. One that is closed already may end in good order, for which it has little time."""
        self._grants.clear()
        if self._task is not None and not self._closing:
            self._task.cancel()
            await asyncio.wait([self._task])

    # -- one opening -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Whatever happens, the request that waits hears of it."""
        try:
            await self._try_servers()
        except Exception as fault:  # noqa: BLE001  a fault of ours is this request's end
            message = "unexpected error while encoding: %s"
            self._fleet.warn.error("encoding", message, whereabouts(fault), extra={"request_id": self._request_id})
            error = InternalError("the image or video could not be encoded")
            self._post(ItemFailed(key=self.item.key, error=error))

    async def _try_servers(self) -> None:
        tried: list[EncodeServer] = []
        error: EPDError = UnavailableError("no encode server is ready")
        for attempt in range(self._attempts):
            if attempt:
                self._metrics.retries.labels("encode").inc()
            server = await self._next_server(tried)
            if server is None:
                break
            if server in tried:
                await asyncio.sleep(_BACKOFF_S * attempt)
            try:
                with self._span.child("encode", {"server.address": server.address}, calls=True) as span:
                    await self._attempt(server, span)
                return
            except EPDError as failure:
                error = failure
            if self._closing:
                return
            may_be_elsewhere = isinstance(error, MediaExpiredError) and self._fleet.choose_encode(
                self.item.key, [*tried, server], self._pin
            )
            if isinstance(error, InvalidRequestError | DeadlineError) and not may_be_elsewhere:
                self._post(ItemFailed(key=self.item.key, error=error))
                return
            tried.append(server)
            server.warn.warning(
                type(error).__name__, "%s: %s", server, error.message, extra={"request_id": self._request_id}
            )
            self._fail_grants()
        self._post(ItemFailed(key=self.item.key, error=self._final(error)))

    async def _next_server(self, tried: Sequence[EncodeServer]) -> EncodeServer | None:
        """A new request is refused at once, one that has begun gives a server time to come; nobody waits for a pin."""
        if self._pin is not None or (not tried and self.metadata is None):
            return self._fleet.choose_encode(self.item.key, pin=self._pin)
        return await self._fleet.wait_for_encode(self.item.key, tried)

    def _final(self, error: EPDError) -> EPDError:
        """What the client hears when all attempts are used up: of a pinned server, what it was."""
        if self._pin is not None:
            return type(error)(f"{self._pin}: {error.message}")
        if isinstance(error, OverloadedError | DeadlineError | MediaExpiredError):
            return error
        if isinstance(error, UnavailableError) and not isinstance(error, MovedError | MediaLostError):
            return UnavailableError("the image or video could not be encoded: no encode server could do it")
        return MediaLostError("the image or video could not be encoded by any encode server")

    def _fail_grants(self) -> None:
        for handle, grant in self._grants.values():
            self._post(GrantFailed(key=self.item.key, handle=handle, grant_id=grant.id))
        self._grants.clear()

    async def _attempt(self, server: EncodeServer, span: Span) -> None:
        """From open to the end of the stream. Raises EPDError if another server may do better."""
        if server.channel is None:
            raise UnavailableError("it has just gone")
        assert self._fleet.model is not None
        call = encode_pb2_grpc.EncodeServiceStub(server.channel).Encode(metadata=tuple(span.headers.items()))
        commands: _Commands = asyncio.Queue()
        self._commands, self._answered = commands, False
        commands.put_nowait([encode_pb2.EncodeCommand(open=self._open_command())])
        writer = asyncio.create_task(self._write(call, commands))
        try:
            with server.in_use(call):
                async with asyncio.timeout(self._answer_timeout) as limit:
                    async for event in call:
                        if event.HasField("load"):
                            server.on_load(event.load)
                        self._handle(event, commands)
                        if self._answered:
                            limit.reschedule(None)
        except TimeoutError:
            raise UnavailableError(f"it did not answer within {self._answer_timeout:g} s") from None
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, "it failed")
            if isinstance(failure, UnavailableError):
                server.suspect()
            raise failure from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this task was cancelled but the call: the server was given up and its channel closed.
            raise UnavailableError("it was given up") from None
        finally:
            writer.cancel()
            call.cancel()
        if not self._closing:
            raise UnavailableError("it ended the stream early")

    def _open_command(self) -> encode_pb2.OpenEncode:
        assert self._fleet.model is not None
        remaining = self._deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise DeadlineError("the request's time is up")
        return encode_pb2.OpenEncode(
            key=self.item.key,
            kind=self.item.kind,
            options=self.item.options,
            fingerprint=self._fleet.model.info.fingerprint,
            sizes=self.item.sizes,
            media_digest=self.item.digest,
            request_id=self._request_id,
            deadline_seconds=remaining,
        )

    def _handle(self, event: encode_pb2.EncodeEvent, commands: _Commands) -> None:
        match event.WhichOneof("event"):
            case "accepted":
                if event.accepted.send_media:
                    if self.item.parts is None:
                        raise MediaExpiredError("no server holds it any more: send it with its content")
                    commands.put_nowait(_chunks(self.item.parts))
            case "metadata":
                self._answered = True
                if self.metadata is None:
                    self.metadata = event.metadata
                    self._post(ItemKnown(key=self.item.key))
                elif self.metadata != event.metadata:
                    raise InternalError("it finds another size for this item than was found before")
                commands.put_nowait([encode_pb2.EncodeCommand(grant=grant) for _, grant in self._grants.values()])
            case "shipped":
                self._grants.pop(event.shipped.grant_id, None)
                self.times = {time.stage: time.milliseconds for time in event.shipped.times}
            case "ship_failed":
                granted = self._grants.pop(event.ship_failed.grant_id, None)
                if granted is not None and not event.ship_failed.revoked:
                    handle, grant = granted
                    self._post(GrantFailed(key=self.item.key, handle=handle, grant_id=grant.id))
                    raise UnavailableError(f"it can't reach the language server: {event.ship_failed.detail}")
            case "error":
                raise from_wire(event.error)

    async def _write(
        self, call: grpc.aio.StreamStreamCall[encode_pb2.EncodeCommand, encode_pb2.EncodeEvent], commands: _Commands
    ) -> None:
        try:
            while (batch := await commands.get()) is not None:
                for command in batch:
                    await call.write(command)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader meets the same end and reports it


def _chunks(parts: Sequence[bytes]) -> Iterator[encode_pb2.EncodeCommand]:
    for part in parts:
        for start in range(0, len(part), CHUNK_BYTES):
            data = part[start : start + CHUNK_BYTES]
            yield encode_pb2.EncodeCommand(chunk=encode_pb2.MediaChunk(data=data))
