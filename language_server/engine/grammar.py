"""Grammars that outputs have to follow, by llguidance, whose messages name the place in a grammar and are fit for the
caller."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from common.errors import InvalidRequestError

_MAX_LEXER_STATES = 50_000  # about 100 MB; llguidance's default is five times that, for each request
_MAX_TOKEN_SECONDS = 0.5  # of CPU for one token; usually it takes less than 0.0001. All requests of a step wait for it
_MAX_ERROR_CHARS = 300


def load_tokenizer(path: Path, *, vocab_size: int, eos_ids: Iterable[int]) -> LLTokenizer:
    """A checkpoint's tokenizer.json. Takes a second with 151k tokens."""
    return LLTokenizer(path.read_text(), n_vocab=vocab_size, eos_token=sorted(eos_ids) or None)


def compile_grammar(tokenizer: LLTokenizer, source: str) -> LLMatcher:
    """Before its first token. For threads that can read it, see `common.grammars`.

    Raises:
        InvalidRequestError: the grammar has a fault, or is too complex.
    """
    limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    matcher.compute_bitmask()  # the first one may take long: not among the steps; a copy knows it
    if matcher.is_error():
        raise InvalidRequestError(f"the grammar can't be used: {matcher.get_error()[:_MAX_ERROR_CHARS]}")
    return matcher


class GrammarMatcher:
    """Where one request's output stands in its grammar.

    Args:
        matcher: before its first token; nobody else's.
        after_token_id: the grammar holds from behind the first of these in the output on; None: from the start.
        silent_eos_ids: ids that end a text but do not stop this request; they are not offered while there is a choice.
    """

    def __init__(self, matcher: LLMatcher, *, after_token_id: int | None, silent_eos_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._after_token_id = after_token_id
        self._silent_eos_ids = silent_eos_ids
        self._slowest = 0.0
        self.active = after_token_id is None

    def feed(self, token: int) -> None:
        """The output's next token."""
        if self.active:
            started = time.thread_time()
            self._matcher.consume_token(token)
            self._slowest = max(self._slowest, time.thread_time() - started)
        else:
            self.active = token == self._after_token_id

    @property
    def complete(self) -> bool:
        """Nothing can follow but the end."""
        return self.active and self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        """Why the grammar can't be followed any further."""
        if self._matcher.is_error():
            return self._matcher.get_error()[:_MAX_ERROR_CHARS]
        if self._slowest > _MAX_TOKEN_SECONDS:
            return f"it takes {self._slowest:.1f} seconds to find out what may come next"
        return None

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        """Writes which tokens may come next: bit i of byte i // 8, lowest first. Meaningless after an error.

        Args:
            mask: contiguous, a bit for each token of the vocabulary, padded to whole words of 4 bytes.
        """
        started = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._slowest = max(self._slowest, time.thread_time() - started)
        if self._silent_eos_ids:
            allowed = mask.copy()
            for token in self._silent_eos_ids:
                allowed[token // 8] &= 0xFF ^ (1 << token % 8)
            if allowed.any():
                mask[:] = allowed
