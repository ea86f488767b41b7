"""How a request wants its tokens chosen, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import InvalidRequestError
from common.grammars import MAX_GRAMMAR_BYTES
from common.pb import language_pb2 as pb
from language_server.engine.limits import Limits

MAX_LOGPROBS = 100  # likeliest tokens shown in each place
_MAX_BIASES = 4096
_MAX_STOP_IDS = 4096
_MAX_BAD_WORDS = 1024
_MAX_BAD_WORD_TOKENS = 64

# So cold that the likeliest token is certain; dividing by less overflows float32.
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, kw_only=True)
class GrammarParams:
    """What the output has to be: llguidance's serialization, and from where in the output on it holds."""

    source: str
    after_token_id: int | None = None  # behind the first of these; None: from the start


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """See proto/language.proto; the draw of token i depends on (seed, choice, i) and the logits only."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()  # none: all are
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: GrammarParams | None = None


def read_sampling(params: pb.SamplingParams, limits: Limits) -> SamplingParams:
    """What the wire says, in range.

    Raises:
        InvalidRequestError: it is not.
    """
    if params.max_tokens < 1:
        raise InvalidRequestError("max_tokens has to be at least 1")
    if params.min_tokens > params.max_tokens:
        raise InvalidRequestError(f"min_tokens is {params.min_tokens}, more than max_tokens: {params.max_tokens}")
    _check_numbers(params)
    _check_sizes(params)
    for name, ids in (
        ("a stop token id", params.stop_token_ids),
        ("a token id of logit_bias", params.logit_bias),
        ("a token id of allowed_token_ids", params.allowed_token_ids),
        ("a token id of bad_words", (token for word in params.bad_words for token in word.ids)),
        ("after_token_id", [params.grammar.after_token_id]),
    ):
        _check_ids(name, ids, limits.vocab_size)
    stop_ids = frozenset(params.stop_token_ids)
    return SamplingParams(
        max_tokens=params.max_tokens,
        temperature=params.temperature if params.temperature >= _GREEDY_BELOW else 0.0,
        top_p=params.top_p or 1.0,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
        choice=params.choice,
        stop_token_ids=stop_ids if params.ignore_eos else stop_ids | limits.eos_ids,
        min_tokens=params.min_tokens,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty or 1.0,
        logit_bias=tuple(params.logit_bias.items()),
        allowed_token_ids=tuple(dict.fromkeys(params.allowed_token_ids)),
        bad_words=tuple(tuple(word.ids) for word in params.bad_words),
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        prompt_logprobs=params.prompt_logprobs if params.HasField("prompt_logprobs") else None,
        grammar=_grammar(params.grammar) if params.HasField("grammar") else None,
    )


def _grammar(grammar: pb.Grammar) -> GrammarParams:
    return GrammarParams(
        source=grammar.source,
        after_token_id=grammar.after_token_id if grammar.HasField("after_token_id") else None,
    )


def _check_numbers(params: pb.SamplingParams) -> None:
    numbers = [
        ("temperature", params.temperature, 0.0, 100.0),
        ("top_p", params.top_p, 0.0, 1.0),
        ("min_p", params.min_p, 0.0, 1.0),
        ("presence_penalty", params.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", params.frequency_penalty, -2.0, 2.0),
        # 0 says nothing; what is nearer to it or further off could make infinities of sound logits.
        ("repetition_penalty", params.repetition_penalty or 1.0, 0.01, 100.0),
    ]
    numbers += [(f"the logit_bias of token {token}", bias, -100.0, 100.0) for token, bias in params.logit_bias.items()]
    for name, value, low, high in numbers:
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidRequestError(f"{name} is {value}, not a number from {low:g} to {high:g}")


def _check_sizes(params: pb.SamplingParams) -> None:
    for name, size, most in (
        ("stop_token_ids has {} entries", len(params.stop_token_ids), _MAX_STOP_IDS),
        ("logit_bias has {} entries", len(params.logit_bias), _MAX_BIASES),
        ("bad_words has {} entries", len(params.bad_words), _MAX_BAD_WORDS),
        ("bad_words: one has {} tokens", max((len(w.ids) for w in params.bad_words), default=0), _MAX_BAD_WORD_TOKENS),
        ("logprobs is {}", params.logprobs, MAX_LOGPROBS),
        ("prompt_logprobs is {}", params.prompt_logprobs, MAX_LOGPROBS),
        ("the grammar has {} bytes", len(params.grammar.source.encode()), MAX_GRAMMAR_BYTES),
    ):
        if size > most:
            raise InvalidRequestError(f"{name.format(size)}; at most {most} are possible")
    if any(not word.ids for word in params.bad_words):
        raise InvalidRequestError("bad_words: one has no tokens")


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    if any(token >= vocab_size for token in ids):
        raise InvalidRequestError(f"{name} is outside the vocabulary of {vocab_size}")
