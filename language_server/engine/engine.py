"""The engine: everything about requests between their arrival and their end, one step at a time.

It knows no sockets and no clocks but deadlines; the process around it (`language_server.engine_process`) feeds
commands in and carries events out, and a test can do both by hand.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass

import torch

from common.embeddings import EmbeddingLayout
from common.errors import (
    CancelledError,
    DeadlineError,
    EPDError,
    InternalError,
    InvalidRequestError,
    MediaLostError,
    MovedError,
    OverloadedError,
)
from common.logs import RateLimitedLog, whereabouts
from common.media_key import MediaKey
from common.pb import common_pb2, embedding_pb2, engine_pb2
from common.pb import language_pb2 as pb
from common.tensors import dtype_from_wire
from language_server.engine.admission import Admission
from language_server.engine.arena import Arena
from language_server.engine.block_manager import BlockManager
from language_server.engine.grammar_compiler import GrammarCompiler
from language_server.engine.limits import Limits
from language_server.engine.media_ledger import MediaLedger
from language_server.engine.model_runner import ModelRunner, StepResult
from language_server.engine.request import Request
from language_server.engine.scheduler import Schedule, Scheduler
from language_server.engine.stage_times import stage_times
from language_server.engine.stats import Stats, gauges
from language_server.engine.throughput import Throughput
from language_server.timeline import timeline

log = logging.getLogger(__name__)

_MAX_BAD_TRANSFERS = 3  # of one item for one request, before it is given up


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes of the engine; `layout` of an item of one row: hidden size, deepstack levels, dtype."""

    limits: Limits
    layout: EmbeddingLayout | None  # None: a text-only checkpoint
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_step_tokens: int
    max_waiting: int
    prefix_caching: bool = True


class Engine:
    """Continuous batching over one model. Not thread-safe: one caller at a time.

    Args:
        grammars: None when the checkpoint has no tokenizer.json: requests with grammars are refused.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        runner: ModelRunner,
        arena: Arena,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._config = config
        self._runner = runner
        self._arena = arena
        self._grammars = grammars
        self._compiling: dict[int, Request] = {}  # by handle
        self._admission = Admission(config.limits)
        self._blocks = BlockManager(
            num_blocks=config.num_blocks, block_size=config.block_size, prefix_caching=config.prefix_caching
        )
        self._media = MediaLedger(capacity=arena.size, layout_of=self._layout_of)
        self._scheduler = Scheduler(
            blocks=self._blocks,
            held=self._media.held,
            max_num_seqs=config.max_num_seqs,
            max_step_tokens=config.max_step_tokens,
        )
        self._bad_transfers: Counter[tuple[int, MediaKey]] = Counter()
        self._events = engine_pb2.EngineEvents()
        self._rate = Throughput()
        self._idle = True
        self._faults = RateLimitedLog(log)
        self.stats = Stats()

    # -- commands -----------------------------------------------------------------------------------------------

    def generate(self, generate: pb.Generate) -> None:
        """Admits the request or finishes it with an error; either way its caller is told by an event."""
        try:
            if len(self._scheduler.unfinished) >= self._config.max_waiting + self._config.max_num_seqs:
                raise OverloadedError("the language server's queue is full")
            request = self._admission.admit(generate)
            self._check_items(request)
            self._compile_grammar(request)
        except EPDError as error:
            self._events.events.finished.add(handle=generate.handle, reason=pb.Finished.ERROR, error=error.to_wire())
            return
        self._scheduler.add(request)
        missing = [key for key in request.needed_keys() if not self._media.held(key)]
        request.lacked_media = bool(missing)
        self.stats.count_admission(request, missing=len(missing))
        self._events.events.admitted.add(handle=request.handle, cached_tokens=request.computed, needed_keys=missing)

    def _compile_grammar(self, request: Request) -> None:
        """Begins with it, if there is one; `_collect_grammars` ends it."""
        if (grammar := request.sampling.grammar) is None:
            return
        if self._grammars is None:
            raise InvalidRequestError("the checkpoint has no tokenizer.json: its server can't follow grammars")
        request.compiling = self._grammars.submit(grammar, request.output_ids, request.sampling.stop_token_ids)
        self._compiling[request.handle] = request

    def _check_items(self, request: Request) -> None:
        """One key has one size, whoever names it."""
        named = {span.key: span.item_rows for span in request.spans}
        for other in self._scheduler.unfinished.values() if named else ():
            for span in other.spans:
                if named.get(span.key, span.item_rows) != span.item_rows:
                    raise InvalidRequestError("the media key is in use for an item of another size")
        for key, rows in named.items():
            if self._media.rows_of(key) not in (None, rows):
                raise InvalidRequestError("the media key is in use for an item of another size")

    def abort(self, handle: int) -> None:
        """Ends the request. One that has ended already is nobody's mistake: the abort crossed its last event."""
        if request := self._scheduler.unfinished.get(handle):
            self._finish(request, pb.Finished.ABORTED, error=CancelledError("aborted"))

    def media_filled(self, grant_id: bytes) -> None:
        for request in self._media.filled(grant_id, self._scheduler.unfinished.values()):
            if request.media_at is None and request.computable_end(self._media.held) == request.num_tokens:
                request.media_at = time.monotonic()

    def grant_closed(self, grant_id: bytes, reason: str) -> None:
        """The front does not write under this grant any more; with a `reason`, because of bad frames."""
        item = self._media.closed(grant_id)
        if item is None or not reason or item.owner.handle not in self._scheduler.unfinished:
            return
        self._bad_transfers[item.owner.handle, item.key] += 1
        if self._bad_transfers[item.owner.handle, item.key] >= _MAX_BAD_TRANSFERS:
            self._fail(item.owner, MediaLostError(f"a media item arrived broken too often ({reason})"))

    def grant_lost(self, handle: int, key: MediaKey, grant_id: bytes) -> None:
        if request := self._scheduler.unfinished.get(handle):
            self._media.lost(request, key, grant_id)

    def move_all(self) -> None:
        """Ends every request with MOVED: its router continues it on another server."""
        for request in list(self._scheduler.unfinished.values()):
            self._fail(request, MovedError("the language server is shutting down"))

    def close(self) -> None:
        """Ends the threads and processes that compile grammars."""
        if self._grammars is not None:
            self._grammars.close()

    # -- steps --------------------------------------------------------------------------------------------------

    @property
    def has_unfinished(self) -> bool:
        return bool(self._scheduler.unfinished)

    @property
    def idle(self) -> bool:
        """The last step computed nothing: neither will the next, before something arrives or a deadline passes."""
        return self._idle

    @property
    def compiling(self) -> bool:
        """Some request waits for its grammar."""
        return bool(self._compiling)

    def next_deadline(self) -> float | None:
        """The soonest deadline of an unfinished request, as time.monotonic()."""
        return min((r.deadline for r in self._scheduler.unfinished.values() if r.deadline is not None), default=None)

    def step(self) -> engine_pb2.EngineEvents:
        """Computes one batch, if anything can be computed, and returns all that happened since the last step."""
        self._expire()
        self._collect_grammars()
        self._media.assign_room(self._scheduler.unfinished.values())
        schedule = self._scheduler.schedule()
        self._idle = not schedule.chunks
        if schedule.chunks or schedule.copies:
            started = time.monotonic()
            result = self._runner.run(schedule, self)
            seconds = time.monotonic() - started
            self._rate.add(schedule, seconds)
            self._postprocess(schedule, result)
            self._events.step.tokens = self.stats.count_step(schedule)
            self._events.step.seconds = seconds
        return self._take_events()

    def tensor(self, key: MediaKey) -> tuple[EmbeddingLayout, torch.Tensor]:
        """Where the rows of a held item lie, see `EmbeddingStore`."""
        item = self._media.lookup(key)
        layout = item.layout
        memory = self._arena.region(item.offset, layout.total_bytes)
        flat = torch.frombuffer(memory, dtype=dtype_from_wire(layout.dtype))
        return layout, flat.view(1 + layout.levels, layout.rows, layout.hidden)

    def _collect_grammars(self) -> None:
        """Lets go on whose grammar is compiled; what can't be compiled ends its request."""
        for request in list(self._compiling.values()):
            assert request.compiling is not None
            if not request.compiling.done():
                continue
            del self._compiling[request.handle]
            compiling, request.compiling = request.compiling, None
            request.compiled_at = time.monotonic()
            if (error := compiling.exception()) is None:
                request.grammar = compiling.result()
                if request.grammar.complete:  # by the tokens that were made elsewhere
                    self._finish(request, pb.Finished.STOP)
            elif isinstance(error, EPDError):
                self._fail(request, error)
            else:
                where = whereabouts(error)
                self._faults.error(
                    "grammar", "a grammar broke the compiler: %s", where, extra={"request_id": request.request_id}
                )
                self._fail(request, InternalError("the grammar broke the compiler"))

    def _postprocess(self, schedule: Schedule, result: StepResult) -> None:
        for piece in result.prompts:
            piece.request.next_prompt_logprob = piece.start + len(piece.tokens)
            self._events.events.prompt_logprobs.add(handle=piece.request.handle, start=piece.start, tokens=piece.tokens)
        sampled = enumerate(result.draws)
        for chunk in schedule.chunks:
            request = chunk.request
            request.computed = chunk.end
            self._blocks.register(request, chunk.start)
            if not chunk.samples:
                continue
            place, draw = next(sampled)
            match draw:
                case InternalError():
                    self._poisoned(request, draw)
                case EPDError():
                    self._fail(request, draw)
                case token:
                    self._append(request, token, result.logprobs.get(place))

    def _poisoned(self, request: Request, error: InternalError) -> None:
        """Its logits are no numbers: whatever they came from must not be found by anybody else."""
        self._blocks.forget(request)
        for key in {span.key for span in request.spans}:
            self._media.discard(key)
        self._fail(request, error)

    def _append(self, request: Request, token: int, logprobs: pb.TokenLogprobs | None) -> None:
        request.append(token)
        told = [logprobs] if logprobs is not None else []
        output = self._events.events.outputs.add(handle=request.handle, token_ids=[token], logprobs=told)
        if request.first_token_at is None:
            request.first_token_at = time.monotonic()
            output.cached_tokens = request.cached_tokens or 0
        made, sampling = len(request.output_ids), request.sampling
        if token in sampling.stop_token_ids:
            self._finish(request, pb.Finished.STOP, stop_token_id=token)
        elif request.grammar is not None and request.grammar.complete:
            self._finish(request, pb.Finished.STOP)
        elif made >= sampling.max_tokens:
            self._finish(request, pb.Finished.LENGTH)

    # -- ends ---------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        now = time.monotonic()
        for request in list(self._scheduler.unfinished.values()):
            if request.deadline is not None and now >= request.deadline:
                self._fail(request, DeadlineError("the request's time is up"))

    def _fail(self, request: Request, error: EPDError) -> None:
        self._finish(request, pb.Finished.ERROR, error=error)

    def _finish(
        self,
        request: Request,
        reason: pb.Finished.Reason,
        *,
        error: EPDError | None = None,
        stop_token_id: int | None = None,
    ) -> None:
        """The one end of a request: everything that it holds is free, and its caller is told."""
        self._scheduler.remove(request)
        self._media.forget(request)
        if (compiling := self._compiling.pop(request.handle, None)) is not None:
            assert compiling.compiling is not None
            compiling.compiling.cancel()
        for key in {span.key for span in request.spans}:
            self._bad_transfers.pop((request.handle, key), None)
        self.stats.count_end(reason)
        stages = stage_times(request)
        self._events.timelines.append(timeline(request.handle, stages))
        self._events.events.finished.add(
            handle=request.handle,
            reason=reason,
            error=error.to_wire() if error else None,
            stop_token_id=stop_token_id,
            times=[common_pb2.StageTime(stage=stage.name, milliseconds=1000 * stage.seconds) for stage in stages],
            prompt_tokens=len(request.prompt_ids),
            cached_tokens=request.cached_tokens or 0,
            output_tokens=len(request.output_ids),
        )

    # -- events -------------------------------------------------------------------------------------------------

    def _layout_of(self, rows: int) -> EmbeddingLayout:
        layout = self._config.layout
        assert layout is not None, "a request with spans on a text-only checkpoint"
        return EmbeddingLayout(rows=rows, hidden=layout.hidden, levels=layout.levels, dtype=layout.dtype)

    def _take_events(self) -> engine_pb2.EngineEvents:
        changes = self._media.take_changes()
        events, self._events = self._events, engine_pb2.EngineEvents()
        for opened in changes.opened:
            item = opened.item
            layout = item.layout.to_wire()
            events.opened.add(grant_id=item.grant_id, offset=item.offset, layout=layout)
            grant = embedding_pb2.Grant(id=item.grant_id, layout=layout)
            events.events.needs.add(handle=opened.request.handle, key=item.key, grant=grant)
        events.revoked.extend(changes.revoked)
        for request, key in changes.received:
            if request.handle in self._scheduler.unfinished:
                events.events.received.add(handle=request.handle, key=key)
        events.events.load.CopyFrom(self._load())
        events.stats.values.update(self.stats)
        events.stats.values.update(gauges(self._scheduler, self._blocks, self._media))
        events.stats.values.update(self._runner.gauges)
        if self._grammars is not None:
            events.stats.values.update(self._grammars.gauges)
        return events

    def _load(self) -> common_pb2.Load:
        requests = self._scheduler.unfinished.values()
        running = self._scheduler.running
        queued = sum(
            request.computable_end(self._media.held) - request.computed
            for request in requests
            if not request.is_decoding
        )
        return common_pb2.Load(
            queue_seconds=self._rate.seconds(queued), running=running, waiting=len(requests) - running
        )
