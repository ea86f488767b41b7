"""Grammars that outputs have to follow, by llguidance: compiled beside the engine's steps, then fed token by token.

llguidance bounds its own work: a grammar that is too large, or too ambiguous at some token, is an error of that
request's matcher, after milliseconds. Its messages name the place in the grammar and are fit for the caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from common.errors import InvalidRequestError
from language_server.engine.grammar_threads import GrammarThreads
from language_server.engine.sampling_params import GrammarParams

_THREADS = 2  # so that one slow grammar does not hold up all others
_MAX_LEXER_STATES = 50_000  # about 100 MB; llguidance's default is five times that, for each request
_MAX_ERROR_CHARS = 300


class GrammarMatcher:
    """Where one request's output stands in its grammar.

    Args:
        silent_eos_ids: ids that end a text but do not stop this request; they are not offered while there is a choice.
    """

    def __init__(self, matcher: LLMatcher, *, after_token_id: int | None, silent_eos_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._after_token_id = after_token_id
        self._silent_eos_ids = silent_eos_ids
        self.active = after_token_id is None

    def feed(self, token: int) -> None:
        """The output's next token."""
        if self.active:
            self._matcher.consume_token(token)
        else:
            self.active = token == self._after_token_id

    @property
    def complete(self) -> bool:
        """Nothing can follow but the end."""
        return self.active and self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        """Why the grammar can't be followed any further."""
        return self._matcher.get_error()[:_MAX_ERROR_CHARS] if self._matcher.is_error() else None

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        """Writes which tokens may come next: bit i of byte i // 8, lowest first. Meaningless after an error.

        Args:
            mask: contiguous, a bit for each token of the vocabulary, padded to whole words of 4 bytes.
        """
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._silent_eos_ids:
            allowed = mask.copy()
            for token in self._silent_eos_ids:
                allowed[token // 8] &= 0xFF ^ (1 << token % 8)
            if allowed.any():
                mask[:] = allowed


class GrammarCompiler:
    """Makes matchers for one tokenizer, in threads of its own.

    Args:
        tokenizer: the checkpoint's tokenizer.json. It is read for the first grammar: a second with 151k tokens.
        wake: called, from any thread, when a grammar is compiled or failed.
    """

    def __init__(self, tokenizer: Path, *, vocab_size: int, eos_ids: frozenset[int], wake: Callable[[], None]) -> None:
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._wake = wake
        self._threads = GrammarThreads(_THREADS, "grammar")
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled = 0
        self._seconds = 0.0

    @property
    def gauges(self) -> dict[str, float]:
        """For the metrics."""
        return {"grammars": self._compiled, "grammar_compile_seconds": self._seconds}

    def submit(
        self, grammar: GrammarParams, output_ids: Sequence[int], stop_ids: frozenset[int]
    ) -> Future[GrammarMatcher]:
        """A matcher that has been fed with `output_ids`.

        The future raises InvalidRequestError when the grammar has a fault, is too complex, or does not allow the
        output.
        """
        output = list(output_ids)
        silent = sorted(self._eos_ids - stop_ids)
        future = self._threads.submit(lambda: self._compile(grammar, output, silent))
        future.add_done_callback(lambda _: self._wake())
        return future

    def _compile(self, grammar: GrammarParams, output_ids: Sequence[int], silent: Sequence[int]) -> GrammarMatcher:
        tokenizer = self._load_tokenizer()
        started = time.monotonic()
        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        compiled = LLMatcher(tokenizer, grammar.source, log_level=0, limits=limits)
        matcher = GrammarMatcher(compiled, after_token_id=grammar.after_token_id, silent_eos_ids=silent)
        if (error := matcher.error) is not None:
            raise InvalidRequestError(f"the grammar can't be used: {error}")
        for token in output_ids:
            matcher.feed(token)
        if (error := matcher.error) is not None:
            raise InvalidRequestError(f"the output so far does not follow the grammar: {error}")
        with self._lock:
            self._compiled += 1
            self._seconds += time.monotonic() - started
        return matcher

    def _load_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    self._path.read_text(), n_vocab=self._vocab_size, eos_token=sorted(self._eos_ids) or None
                )
            return self._tokenizer
