"""The answer of one choice: token ids in, the text that may be shown out."""

from __future__ import annotations

from collections import deque
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
    silent: bool = False  # nothing is shown: only what is known of the prompt is wanted


class Taken(NamedTuple):
    """What came since the last time: text, and the tokens whose last character is in it.

    Logprobs, if they are wanted at all, are one a token: None for a token that has no part in the text (a stop token, a
    hidden one, what a stop string took away).
    """

    text: str
    ids: list[int]
    logprobs: list[language_pb2.TokenLogprobs | None]


class Output:
    """Grows token by token until a stop string ends it, or the language server does.

    decoded  "so it is do|"        all characters that are complete
    shown    "so it is |"          without those that may begin a stop string ("done")
    extents  [(9, 11), (11, 12)]   of the tokens that are not all shown; half a character counts as one
    """

    def __init__(self, rules: OutputRules, table: Sequence[bytes]) -> None:
        self._rules = rules
        self._unread = frozenset() if rules.include_stop else rules.stop_ids  # these end the text and are no part of it
        self._detokenizer = Detokenizer(table, rules.hidden)
        self._stops = StopStrings(rules.stop, include=rules.include_stop)
        self.ids: list[int] = []
        self._text: list[str] = []  # not yet taken
        self._logprobs: list[language_pb2.TokenLogprobs | None] = []  # likewise
        self._taken = 0  # of ids
        self._decoded = 0  # characters
        self._shown = 0  # characters
        self._extents: deque[tuple[int, int]] = deque()

    @property
    def stop_string(self) -> str | None:
        """The one that ended it."""
        return self._stops.matched

    def feed(self, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs] = ()) -> None:
        """Adds tokens, up to the one that completes a stop string; with the logprobs of each, or none."""
        if self._rules.silent:
            return
        for i, token in enumerate(tokens):
            self.ids.append(token)
            read = token not in self._unread
            if logprobs:
                self._logprobs.append(logprobs[i] if read and token not in self._rules.hidden else None)
            self._show(self._detokenizer.feed(token) if read else "")
            if self._stops.matched is not None:
                break

    def _show(self, text: str) -> None:
        """Of the latest token."""
        start = self._decoded
        self._decoded += len(text)
        self._extents.append((start, self._decoded + self._detokenizer.halfway))
        if len(self.ids) > self._rules.min_tokens:
            text = self._stops.feed(text)
        if text:
            self._text.append(text)
            self._shown += len(text)
        if self._stops.matched is not None:
            self._cut()
        while self._extents and self._extents[0][1] <= self._shown:
            self._extents.popleft()

    def _cut(self) -> None:
        """What follows `shown` is never shown."""
        if self._logprobs:
            for i in range(1, len(self._extents) + 1):
                if self._extents[-i][0] >= self._shown:
                    self._logprobs[-i] = None
        self._extents.clear()

    def finish(self) -> None:
        """No more tokens come: what was held back for a stop string is shown. Half a character is not."""
        if held := self._stops.flush():
            self._text.append(held)
        self._extents.clear()

    def take(self) -> Taken:
        """What came since the last time."""
        end = len(self.ids) - len(self._extents)
        count = end - self._taken
        taken = Taken("".join(self._text), self.ids[self._taken : end], self._logprobs[:count])
        self._text, self._taken, self._logprobs = [], end, self._logprobs[count:]
        return taken
