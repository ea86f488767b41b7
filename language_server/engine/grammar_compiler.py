"""Makes matchers of grammars, beside the engine's steps.

    submit ──► known? ──no──► trial, then compiled in a thread ──► known ──► copied for each request, fed what it has
                  └──yes──────────────────────────────────────────────────► copied ...

Requests with the same source, such as the choices of one prompt or all that use one schema, share its compilation. One
that can't be used is remembered like any other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

from common.errors import InvalidRequestError
from common.grammars import grammar_threads
from language_server.engine.grammar import GrammarMatcher, compile_grammar, load_tokenizer
from language_server.engine.grammar_trial import GrammarTrial
from language_server.engine.sampling_params import GrammarParams

_THREADS = 4  # so that slow grammars hold up others only when there are so many of them
_MOST_KNOWN = 32


@dataclass(kw_only=True)
class _Known:
    """A source that was asked for; `waiting` counts requests that have not got their matcher."""

    compiled: Future[LLMatcher]
    source_bytes: int
    waiting: int = 0

    @property
    def is_broken(self) -> bool:
        """It failed, and may not the next time."""
        return self.compiled.done() and not isinstance(self.compiled.exception(), InvalidRequestError | None)


class GrammarCompiler:
    """For one tokenizer. `submit`, and cancelling what it returns, are for one thread, the engine's.

    Args:
        tokenizer: the checkpoint's tokenizer.json; it is read for the first grammar.
        wake: called, from any thread, when a matcher is there or failed.
        most_seconds: of CPU for one grammar; the largest that are of use take two.
    """

    def __init__(
        self,
        tokenizer: Path,
        *,
        vocab_size: int,
        eos_ids: frozenset[int],
        wake: Callable[[], None],
        most_seconds: float = 5.0,
    ) -> None:
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._wake = wake
        self._compiling = grammar_threads("grammars", _THREADS)
        self._copying = grammar_threads("grammar copies", 1)  # one, as no two may touch what they copy
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by source; the one used last is the last
        self._lookups: Counter[str] = Counter()
        self._trials = [
            GrammarTrial(tokenizer, vocab_size=vocab_size, eos_ids=sorted(eos_ids), most_seconds=most_seconds)
            for _ in range(_THREADS)
        ]
        # The one used last comes first: there are only as many processes as were needed at once.
        self._free: queue.LifoQueue[GrammarTrial] = queue.LifoQueue()
        for trial in self._trials:
            self._free.put(trial)
        self._lock = threading.Lock()  # of what follows
        self._tokenizer: LLTokenizer | None = None
        self._compiled = 0
        self._seconds = 0.0

    @property
    def gauges(self) -> dict[str, float]:
        """For the metrics."""
        return {
            **self._lookups,
            "grammars": self._compiled,
            "grammar_compile_seconds": self._seconds,
            "grammar_entries": len(self._known),
            # of sources alone: llguidance does not tell what it holds for one
            "grammar_bytes": sum(known.source_bytes for known in self._known.values()),
        }

    def submit(
        self, grammar: GrammarParams, output_ids: Sequence[int], stop_ids: frozenset[int]
    ) -> Future[GrammarMatcher]:
        """A matcher that has been fed with `output_ids`.

        The future raises InvalidRequestError when the grammar has a fault, is too complex, or does not allow the
        output.
        """
        matcher: Future[GrammarMatcher] = Future()
        output, silent = list(output_ids), sorted(self._eos_ids - stop_ids)
        known = self._find(grammar.source)
        known.waiting += 1

        def end(matcher: Future[GrammarMatcher]) -> None:
            if matcher.cancelled():
                self._leave(grammar.source, known)
            self._wake()

        matcher.add_done_callback(end)
        known.compiled.add_done_callback(
            lambda compiled: self._copying.submit(_copy, compiled, matcher, grammar.after_token_id, output, silent)
        )
        return matcher

    def close(self) -> None:
        """Ends threads and processes; who still waits for a matcher gets none."""
        self._compiling.shutdown(wait=False, cancel_futures=True)
        for trial in self._trials:
            trial.kill()  # its thread goes on at once
        self._compiling.shutdown()
        self._copying.shutdown()
        for trial in self._trials:
            trial.close()

    def _find(self, source: str) -> _Known:
        known = self._known.get(source)
        if known is not None and not known.is_broken:
            self._lookups["grammar_hits"] += 1
            self._known.move_to_end(source)
            return known
        self._lookups["grammar_misses"] += 1
        known = self._known[source] = _Known(
            compiled=self._compiling.submit(self._compile, source), source_bytes=len(source.encode())
        )
        self._known.move_to_end(source)
        if len(self._known) > _MOST_KNOWN:
            self._lookups["grammar_evictions"] += 1
            self._known.popitem(last=False)
        return known

    def _leave(self, source: str, known: _Known) -> None:
        """One request less waits; a compilation that nobody waits for does not begin."""
        known.waiting -= 1
        if not known.waiting and known.compiled.cancel() and self._known.get(source) is known:
            del self._known[source]

    def _compile(self, source: str) -> LLMatcher:
        trial = self._free.get()
        try:
            trial.start()
            tokenizer = self._load_tokenizer()
            trial.survive(source)
        finally:
            self._free.put(trial)
        started = time.monotonic()
        matcher = compile_grammar(tokenizer, source)
        with self._lock:
            self._compiled += 1
            self._seconds += time.monotonic() - started
        return matcher

    def _load_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._path, vocab_size=self._vocab_size, eos_ids=self._eos_ids)
            return self._tokenizer


def _copy(
    compiled: Future[LLMatcher],
    future: Future[GrammarMatcher],
    after_token_id: int | None,
    output_ids: Sequence[int],
    silent_eos_ids: Sequence[int],
) -> None:
    """Gives `future` its own matcher, or its error."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        matcher = GrammarMatcher(
            compiled.result().deep_copy(), after_token_id=after_token_id, silent_eos_ids=silent_eos_ids
        )
        for token in output_ids:
            matcher.feed(token)
            if (error := matcher.error) is not None:
                raise InvalidRequestError(f"the output so far does not follow the grammar: {error}")
    except BaseException as error:  # noqa: BLE001  (whoever waits has to decide what it means, as with any pool)
        future.set_exception(error)
    else:
        future.set_result(matcher)
