"""One request inside the engine: its tokens, its spans of visual rows, and how far it has come.

token index   0 ........ computed ........ first missing row ........ num_tokens
              | KV in blocks | may be computed now |  waits for an item  |

tokens   = prompt_ids + output_ids (the first `resumed` of which an earlier attempt elsewhere made)
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.media_key import MediaKey
from language_server.engine.grammar import GrammarMatcher
from language_server.engine.logits_rules import LogitsRules
from language_server.engine.sampling_params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens `token_offset` to `token_offset + rows` take the item's rows from `row_offset` on."""

    key: MediaKey
    row_offset: int
    rows: int
    token_offset: int
    grid: tuple[int, int, int]  # (t, h, w) in vision patches, before the spatial merge
    item_rows: int

    @property
    def end(self) -> int:
        return self.token_offset + self.rows


@dataclass(kw_only=True, eq=False)
class Request:
    """The engine's record of one request; engine, scheduler and block manager write it, nobody else."""

    handle: int
    request_id: str
    arrival: int  # the one order that rules room, blocks and preemption
    salt: bytes
    prompt_ids: list[int]
    spans: tuple[Span, ...]
    sampling: SamplingParams
    positions: npt.NDArray[np.int64]  # [3, prompt]: MRoPE t, h, w
    position_delta: int  # output token k stands at position prompt + k + delta
    output_ids: list[int] = field(default_factory=list)
    resumed: int = 0
    deadline: float | None = None  # time.monotonic()

    computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks, as far as they were needed
    cached_tokens: int | None = None  # the prefix hit that the caller is told: that of its first start
    active: bool = False  # has been scheduled since it came or was preempted

    compiling: Future[GrammarMatcher] | None = None  # until its grammar is there, it is not scheduled
    grammar: GrammarMatcher | None = None
    next_prompt_logprob: int = 1  # the prompt token whose log probability is to be sent next

    arrived_at: float = field(default_factory=time.monotonic)
    lacked_media: bool = False  # when it arrived, some of its items were not there
    media_at: float | None = None  # all of them were, for the first time
    compiled_at: float | None = None  # its grammar
    started_at: float | None = None
    first_token_at: float | None = None

    def __post_init__(self) -> None:
        self._span_ends = [span.end for span in self.spans]  # ascending
        self.rules = LogitsRules.of(self.sampling, self.prompt_ids)
        if self.rules is not None:
            for token in self.output_ids:
                self.rules.add(token)

    def append(self, token: int) -> None:
        """The output's next token, to all who follow the output."""
        self.output_ids.append(token)
        if self.rules is not None:
            self.rules.add(token)
        if self.grammar is not None:
            self.grammar.feed(token)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def remaining(self) -> int:
        return self.num_tokens - self.computed

    @property
    def needs_all_logits(self) -> bool:
        """Every prompt token has to be computed, for its log probability: cached ones don't help."""
        return self.sampling.prompt_logprobs is not None and self.next_prompt_logprob < len(self.prompt_ids)

    @property
    def lacks_rows(self) -> bool:
        """Some visual rows are not in KV yet."""
        return bool(self.spans) and self.computed < self.spans[-1].end

    @property
    def is_decoding(self) -> bool:
        """One token to go, and it is one that we made."""
        return self.remaining == 1 and self.computed >= len(self.prompt_ids) and bool(self.block_table)

    def tokens(self, start: int, end: int) -> list[int]:
        prompt = len(self.prompt_ids)
        if end <= prompt:
            return self.prompt_ids[start:end]
        return self.prompt_ids[start:] + self.output_ids[max(0, start - prompt) : end - prompt]

    def positions_of(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """[3, end - start]: where the tokens stand for the rotary embedding."""
        prompt = len(self.prompt_ids)
        known = self.positions[:, start : min(end, prompt)]
        if end <= prompt:
            return known
        grown = np.arange(max(start, prompt), end, dtype=np.int64) + self.position_delta
        return np.concatenate([known, np.broadcast_to(grown, (3, grown.size))], axis=1)

    def spans_in(self, start: int, end: int) -> Iterator[tuple[Span, int, int]]:
        """(span, first token, end token) of each overlap of a span with tokens [start, end)."""
        for span in self.spans[bisect.bisect_right(self._span_ends, start) :]:
            if span.token_offset >= end:
                return
            yield span, max(span.token_offset, start), min(span.end, end)

    def needed_keys(self) -> list[MediaKey]:
        """Items with rows that are not in KV yet, in prompt order, each once."""
        return list(dict.fromkeys(span.key for span in self._spans_left()))

    def computable_end(self, held: Callable[[MediaKey], bool]) -> int:
        """The token before which everything can be computed: where the first missing row stands, or the end."""
        known = None  # spans of one video stand one after another
        for span in self._spans_left():
            if span.key != known and not held(span.key):
                return max(span.token_offset, self.computed)
            known = span.key
        return self.num_tokens

    def _spans_left(self) -> Sequence[Span]:
        return self.spans[bisect.bisect_right(self._span_ends, self.computed) :]
