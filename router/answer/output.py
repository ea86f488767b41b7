"""The answer of one choice: token ids in, the text that may be shown out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.pb import language_pb2
from router.answer.detokenizer import Detokenizer, StopStrings


@dataclass(frozen=True, kw_only=True)
class OutputRules:
    """How a request wants its answer to end and to look."""

    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()  # the client's, and the checkpoint's own unless they are ignored
    min_tokens: int = 0  # stop strings count only in what comes after these
    include_stop: bool = False
    hidden: frozenset[int] = frozenset()  # special tokens, unless the client wants to see them


class Taken(NamedTuple):
    """What came since the last time. Logprobs are one a token, if they are wanted at all."""

    text: str
    ids: list[int]
    logprobs: list[language_pb2.TokenLogprobs]


class Output:
    """Grows token by token until a stop string ends it, or the language server does."""

    def __init__(self, rules: OutputRules, table: Sequence[bytes]) -> None:
        self._rules = rules
        self._detokenizer = Detokenizer(table, rules.hidden)
        self._stops = StopStrings(rules.stop, include=rules.include_stop)
        self.ids: list[int] = []
        self._logprobs: list[language_pb2.TokenLogprobs] = []  # not yet taken
        self._text: list[str] = []  # likewise
        self._taken = 0  # of ids

    @property
    def stop_string(self) -> str | None:
        """The one that ended it."""
        return self._stops.matched

    def feed(self, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs] = ()) -> None:
        """Adds tokens, up to the one that completes a stop string; with the logprobs of each, or none."""
        for i, token in enumerate(tokens):
            self.ids.append(token)
            if logprobs:
                self._logprobs.append(logprobs[i])
            if token in self._rules.stop_ids and not self._rules.include_stop:
                continue  # the last one: it ends the text and is no part of it
            text = self._detokenizer.feed(token)
            if len(self.ids) > self._rules.min_tokens:
                text = self._stops.feed(text)
            if text:
                self._text.append(text)
            if self._stops.matched is not None:
                break

    def finish(self) -> None:
        """No more tokens come: what was held back for a stop string is shown. Half a character is not."""
        if held := self._stops.flush():
            self._text.append(held)

    def take(self) -> Taken:
        """What came since the last time."""
        taken = Taken("".join(self._text), self.ids[self._taken :], self._logprobs)
        self._text, self._taken, self._logprobs = [], len(self.ids), []
        return taken
