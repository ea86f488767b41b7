"""Which tokens of which requests are computed in the next step: continuous batching with chunked prefill.

Decoding requests take one token each, prefill chunks share what is left of the step's token budget. Blocks are handed
out in order of arrival; a request that finds none takes them from the youngest request behind it, which is computed
again later. A request whose next rows have not arrived, or whose grammar is not compiled yet, is passed over, blocks
nobody and takes no seat: `max_num_seqs` counts the requests of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from common.media_key import MediaKey
from language_server.engine.block_manager import BlockManager
from language_server.engine.request import Request


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Tokens [start, end) of one request; `samples` when the last of them is the request's last."""

    request: Request
    start: int
    end: int
    samples: bool

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def is_decode(self) -> bool:
        return self.length == 1 and self.start >= len(self.request.prompt_ids)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One step: block copies to make first, then the chunks whose rows lie one after another in the batch."""

    chunks: tuple[Chunk, ...]
    copies: tuple[tuple[int, int], ...]


class Scheduler:
    """Owns the unfinished requests, in order of arrival."""

    def __init__(
        self,
        *,
        blocks: BlockManager,
        held: Callable[[MediaKey], bool],
        max_num_seqs: int,
        max_step_tokens: int,
    ) -> None:
        if max_step_tokens < max_num_seqs:
            raise ValueError(f"a step of {max_step_tokens} tokens can't decode {max_num_seqs} requests")
        self._blocks = blocks
        self._held = held
        self._max_num_seqs = max_num_seqs
        self._max_step_tokens = max_step_tokens
        self.unfinished: dict[int, Request] = {}  # by handle; insertion order is order of arrival
        self.preemptions = 0
        self.prefix_hits = 0  # requests that began with something of the prefix cache
        self.prefix_misses = 0

    @property
    def running(self) -> int:
        return sum(1 for request in self.unfinished.values() if request.active)

    def add(self, request: Request) -> None:
        """Takes the request in; what the prefix cache has for it is held for it from now on."""
        self.unfinished[request.handle] = request
        self._blocks.extend_hit(request, may_copy=False)

    def remove(self, request: Request) -> None:
        del self.unfinished[request.handle]
        self._blocks.release(request)

    def schedule(self) -> Schedule:
        requests = list(self.unfinished.values())
        decodes = sum(1 for request in requests if request.is_decoding)
        budget = self._max_step_tokens - min(decodes, self._max_num_seqs)  # for prefill
        chunks: list[Chunk] = []
        copies: list[tuple[int, int]] = []
        full = False  # a request has to wait for blocks, and so does who comes after it
        for request in requests:
            if len(chunks) == self._max_num_seqs:
                break
            if request.compiling is not None:
                continue
            decoding = request.is_decoding  # those have their place in the budget
            if not decoding and budget <= 0:
                continue
            if copy := self._blocks.extend_hit(request):
                copies.append(copy)
            end = request.computable_end(self._held)
            if end <= request.computed:
                continue
            if not request.active:
                full = full or not self._can_hold(request)
                if full:
                    continue
            end = self._make_room(request, end if decoding else min(end, request.computed + budget))
            if end <= request.computed:
                continue
            if not decoding:
                budget -= end - request.computed
            if not request.active:
                self._activate(request)
            samples = end == request.num_tokens
            chunks.append(Chunk(request=request, start=request.computed, end=end, samples=samples))
        return Schedule(chunks=tuple(chunks), copies=tuple(copies))

    def _activate(self, request: Request) -> None:
        request.active = True
        if request.started_at is None:
            request.started_at = time.monotonic()
            request.cached_tokens = request.computed
            self.prefix_hits += request.computed > 0
            self.prefix_misses += request.computed == 0

    def _can_hold(self, request: Request) -> bool:
        """All of the request's tokens could have blocks, if need be those of younger requests."""
        younger = sum(len(other.block_table) for other in self.unfinished.values() if other.arrival > request.arrival)
        return self._blocks.needed(request, request.num_tokens) <= self._blocks.free + younger

    def _make_room(self, request: Request, end: int) -> int:
        """Allocates blocks for tokens up to `end`, or for as many as can be; returns the token that they reach to."""
        while self._blocks.needed(request, end) > self._blocks.free:
            victim = self._youngest_holder()
            if victim.arrival > request.arrival:
                self._preempt(victim)
            else:
                end = (len(request.block_table) + self._blocks.free) * self._blocks.block_size
        self._blocks.allocate(request, max(0, self._blocks.needed(request, end)))
        return end

    def _youngest_holder(self) -> Request:
        return max(
            (request for request in self.unfinished.values() if request.block_table),
            key=lambda request: request.arrival,
        )

    def _preempt(self, request: Request) -> None:
        self._blocks.release(request)
        request.active = False
        self.preemptions += 1
