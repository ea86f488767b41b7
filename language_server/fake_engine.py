"""What a fake language server has for an engine: room for media, and a clock that says tokens.

It takes the same commands and makes the same events as the real one (proto/engine.proto). An item is received, checked
against what a fake encode server must have sent, and remembered by its key; its bytes are not kept. So room that is
granted always comes back, and requests can take it in the order of their arrival without ever blocking each other.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from common.embeddings import EmbeddingLayout
from common.errors import CancelledError, DeadlineError, EPDError, InternalError, MediaLostError, OverloadedError
from common.fake_embeddings import fake_embedding
from common.media_key import MediaKey
from common.pb import common_pb2, embedding_pb2, engine_pb2
from common.pb import language_pb2 as pb
from language_server.engine.grant_stalls import GrantStalls
from language_server.fake_logprobs import fake_logprobs
from language_server.fake_request import FakeAdmission, FakeRequest
from language_server.inbox import Inbox
from language_server.timeline import timeline

_TICK_SECONDS = 0.01
_MAX_BAD_TRANSFERS = 3  # of one request
_PIECE_TOKENS = 64  # of a prompt's log probabilities


@dataclass(eq=False, kw_only=True)
class _Granted:
    """An item that is on its way; `owner` is whose router was told to have it sent."""

    key: MediaKey
    layout: EmbeddingLayout
    memory: bytearray
    owner: FakeRequest


class FakeEngine:
    """Args:
    shape: a layout of the model's hidden size, levels and dtype; its rows don't matter.
    inbox: of the server; its callbacks come back as commands.
    on_events: told once a tick what happened.
    capacity: bytes of items that are granted or remembered.
    max_waiting: unfinished requests, beyond which new ones are refused.
    verify: check that embeddings are a fake encode server's.
    """

    def __init__(
        self,
        admission: FakeAdmission,
        *,
        shape: EmbeddingLayout,
        inbox: Inbox,
        on_events: Callable[[engine_pb2.EngineEvents], None],
        capacity: int,
        max_waiting: int,
        verify: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._admission = admission
        self._shape = shape
        self._inbox = inbox
        self._on_events = on_events
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._verify = verify
        self._requests: dict[int, FakeRequest] = {}  # unfinished, in order of arrival
        self._held: OrderedDict[MediaKey, int] = OrderedDict()  # key -> bytes, least recently used first
        self._granted: dict[bytes, _Granted] = {}
        self._checking: dict[MediaKey, _Granted] = {}  # complete, on their way into `held`
        self._checks: set[asyncio.Task[None]] = set()
        self._events = pb.SessionEvent()
        self._timelines: list[engine_pb2.Timeline] = []
        self._awake = asyncio.Event()
        self._stats: Counter[str] = Counter()
        self._stalls = GrantStalls()

    def send(self, command: engine_pb2.EngineCommand) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._take, command)

    async def run(self) -> None:
        """One tick after another while there are requests."""
        while True:
            self._awake.clear()
            self._tick()
            if self._requests:
                await asyncio.sleep(_TICK_SECONDS)
            else:
                await self._awake.wait()

    def _take(self, command: engine_pb2.EngineCommand) -> None:
        match command.WhichOneof("command"):
            case "generate":
                self._generate(command.generate)
            case "abort":
                if (request := self._requests.get(command.abort.handle)) is not None:
                    self._finish(request, pb.Finished.ABORTED, CancelledError("aborted").to_wire())
            case "grant_lost":
                if command.grant_lost.grant_id in self._granted:
                    self._inbox.revoke(command.grant_lost.grant_id)
            case "filled":
                self._filled(command.filled)
            case "closed":
                self._closed(command.closed)
            case other:
                raise AssertionError(f"nobody sends {other} to a fake engine")
        self._awake.set()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _generate(self, generate: pb.Generate) -> None:
        try:
            if len(self._requests) >= self._max_waiting:
                raise OverloadedError("the language server's queue is full")
            request = self._admission.admit(generate)
        except EPDError as error:
            self._events.finished.add(handle=generate.handle, reason=pb.Finished.ERROR, error=error.to_wire())
            return
        if request.is_refused:
            self._events.finished.add(handle=request.handle, reason=pb.Finished.ERROR, error=request.failure)
            return
        self._requests[request.handle] = request
        self._stats["accepted"] += 1
        for key in [key for key in request.missing if key in self._held]:
            self._held.move_to_end(key)
            del request.missing[key]
            self._stats["inbox_hits"] += 1
        self._stats["inbox_misses"] += len(request.missing)
        request.lacked_media = bool(request.missing)
        self._events.admitted.add(
            handle=request.handle, cached_tokens=request.cached_tokens, needed_keys=list(request.missing)
        )

    def _finish(
        self,
        request: FakeRequest,
        reason: pb.Finished.Reason,
        error: common_pb2.Error | None = None,
        stop_token_id: int | None = None,
    ) -> None:
        del self._requests[request.handle]
        outcome = {pb.Finished.ABORTED: "aborted", pb.Finished.ERROR: "failed"}.get(reason, "finished")
        self._stats[outcome] += 1
        stages = request.stages()
        self._timelines.append(timeline(request.handle, stages))
        self._events.finished.add(
            handle=request.handle,
            reason=reason,
            error=error,
            stop_token_id=stop_token_id,
            times=[common_pb2.StageTime(stage=stage.name, milliseconds=1000 * stage.seconds) for stage in stages],
            prompt_tokens=len(request.prompt_ids),
            cached_tokens=request.cached_tokens,
            output_tokens=request.made,
        )
        for grant_id, granted in list(self._granted.items()):
            if granted.owner is request:
                self._inbox.revoke(grant_id)

    def _fail(self, request: FakeRequest, error: EPDError) -> None:
        self._finish(request, pb.Finished.ERROR, error.to_wire())

    # -- ticks -------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Lets time pass for all requests, and tells everything that happened since the last tick."""
        now = time.monotonic()
        said = self._stats["decode_tokens"]
        for request in list(self._requests.values()):
            if now >= request.deadline:
                self._fail(request, DeadlineError("the request's time is up"))
            elif not request.missing:
                if request.started_at is None:
                    request.started_at = now
                    self._describe_prompt(request)
                self._say(request, request.due(now))
        self._assign_room()
        events, self._events = self._events, pb.SessionEvent()
        running = sum(not request.missing for request in self._requests.values())
        waiting = len(self._requests) - running
        events.load.CopyFrom(common_pb2.Load(running=running, waiting=waiting))
        timelines, self._timelines = self._timelines, []
        told = engine_pb2.EngineEvents(events=events, timelines=timelines)
        if said < self._stats["decode_tokens"]:
            self._stats["steps"] += 1
            self._stats["decode_steps"] += 1
            told.step.tokens = self._stats["decode_tokens"] - said
            told.step.seconds = time.monotonic() - now
        told.stats.values.update({**self._stats, **self._gauges(), "running": running, "waiting": waiting})
        self._on_events(told)

    def _gauges(self) -> dict[str, float]:
        held = sum(self._held.values())
        return {
            "inbox_bytes": self._used_bytes() - held,
            "inbox_cached_bytes": held,
            "inbox_capacity_bytes": self._capacity,
            "inbox_entries": len(self._held),
            "grant_stalls": self._stalls.count,
            "grant_stall_seconds": self._stalls.seconds,
            "grants_stalled": self._stalls.waiting,
        }

    def _describe_prompt(self, request: FakeRequest) -> None:
        """Its log probabilities, if they are wanted, in pieces."""
        if (top := request.sampling.prompt_logprobs) is None:
            return
        for start in range(1, len(request.prompt_ids), _PIECE_TOKENS):
            ids = request.prompt_ids[start : start + _PIECE_TOKENS]
            tokens = [fake_logprobs(token, top=top, vocab_size=self._admission.vocab_size) for token in ids]
            self._events.prompt_logprobs.add(handle=request.handle, start=start, tokens=tokens)

    def _say(self, request: FakeRequest, due: int) -> None:
        """The tokens of `request` up to `due` in all, or up to its end."""
        tokens: list[int] = []
        ended: tuple[pb.Finished.Reason, int | None] | None = None
        while request.made < due and not request.is_over and ended is None:
            token = request.token(request.made)
            tokens.append(token)
            request.made += 1
            if request.stops(token):
                ended = pb.Finished.STOP, token
            elif request.made >= request.sampling.max_tokens:
                ended = pb.Finished.LENGTH, None
        if tokens:
            top, vocab_size = request.sampling.logprobs, self._admission.vocab_size
            told = [fake_logprobs(token, top=top, vocab_size=vocab_size) for token in tokens if top is not None]
            output = self._events.outputs.add(handle=request.handle, token_ids=tokens, logprobs=told)
            if request.made - len(tokens) == request.resumed:
                output.cached_tokens = request.cached_tokens
            self._stats["decode_tokens"] += len(tokens)
        if ended is not None:
            self._finish(request, ended[0], stop_token_id=ended[1])
        elif request.is_over:
            self._finish(request, pb.Finished.ERROR, request.failure)

    # -- media -------------------------------------------------------------------------------------------------------

    def _used_bytes(self) -> int:
        unchecked = (*self._granted.values(), *self._checking.values())
        return sum(self._held.values()) + sum(item.layout.total_bytes for item in unchecked)

    def _assign_room(self) -> None:
        """Grants in order of arrival and prompt, until one has to wait for room."""
        on_their_way = {granted.key for granted in self._granted.values()} | self._checking.keys()
        self._grant_all(on_their_way)
        wanted = {key for request in self._requests.values() for key in request.missing}
        self._stalls.update(wanted - on_their_way)

    def _grant_all(self, on_their_way: set[MediaKey]) -> None:
        """`on_their_way`: keys that have a grant; those that get one are added."""
        for request in self._requests.values():
            for key, rows in request.missing.items():
                if key in on_their_way:
                    continue
                layout = self._layout(rows)
                while self._held and self._used_bytes() + layout.total_bytes > self._capacity:
                    self._held.popitem(last=False)
                    self._stats["inbox_evictions"] += 1
                if self._used_bytes() + layout.total_bytes > self._capacity:
                    return
                self._grant(request, key, layout)
                on_their_way.add(key)

    def _grant(self, request: FakeRequest, key: MediaKey, layout: EmbeddingLayout) -> None:
        grant_id, memory = secrets.token_bytes(16), bytearray(layout.total_bytes)
        self._granted[grant_id] = _Granted(key=key, layout=layout, memory=memory, owner=request)
        self._inbox.open(grant_id, layout, memoryview(memory))
        grant = embedding_pb2.Grant(id=grant_id, layout=layout.to_wire())
        self._events.needs.add(handle=request.handle, key=key, grant=grant)

    def _filled(self, grant_id: bytes) -> None:
        granted = self._granted.pop(grant_id, None)
        if granted is None:  # revoked meanwhile
            return
        self._checking[granted.key] = granted
        check = asyncio.create_task(self._check(granted))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)

    async def _check(self, granted: _Granted) -> None:
        """Gives a complete item to all who lack it, or fails them if it is not what it should be."""
        key = granted.key
        right = not self._verify or await asyncio.to_thread(_is_right, granted)
        del self._checking[key]
        for request in [request for request in self._requests.values() if key in request.missing]:
            if not right:
                self._fail(request, InternalError("an embedding is not the one that a fake encode server makes"))
                continue
            del request.missing[key]
            self._events.received.add(handle=request.handle, key=key)
        if right:
            self._held[key] = granted.layout.total_bytes
        self._awake.set()

    def _closed(self, closed: engine_pb2.GrantClosed) -> None:
        granted = self._granted.pop(closed.grant_id, None)
        if granted is None or not closed.reason or granted.owner.handle not in self._requests:
            return
        granted.owner.bad_transfers += 1
        if granted.owner.bad_transfers >= _MAX_BAD_TRANSFERS:
            self._fail(granted.owner, MediaLostError(f"a media item arrived broken too often ({closed.reason})"))

    def _layout(self, rows: int) -> EmbeddingLayout:
        shape = self._shape
        return EmbeddingLayout(rows=rows, hidden=shape.hidden, levels=shape.levels, dtype=shape.dtype)


def _is_right(granted: _Granted) -> bool:
    return granted.memory == fake_embedding(granted.key, granted.layout)
