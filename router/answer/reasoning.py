"""Reasoning apart from the answer that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from router.syntax import THINK, THINK_END, open_end

_NO_TOKEN = -1


class ReasoningReader:
    """Splits an output that begins with reasoning.

    The line breaks on the inner side of the marks, and those between `</think>` and the answer, belong to the format:
    they are not shown, and the chat templates put them back when they show the message again.

    Args:
        begun: the prompt ends within reasoning; otherwise the output may or may not begin with `<think>`.
        marks: ids of `<think>` and `</think>`, to count the tokens between them.
    """

    def __init__(self, *, begun: bool, marks: tuple[int, int]) -> None:
        self._stage = _Stage.REASONING if begun else _Stage.START
        self._held = ""  # not clear yet
        self._shown = False  # any character, of what is read in this stage
        self._open, self._close = marks
        self._tokens = 0
        self._counts = begun

    @property
    def tokens(self) -> int:
        """Of reasoning, so far."""
        return self._tokens if self._stage is not _Stage.START else 0

    def count(self, token_ids: Sequence[int]) -> None:
        """Takes note of tokens."""
        for token in token_ids:
            if self._counts and token == self._close:
                self._stop_counting()
            elif self._counts:
                self._tokens += 1
            elif token == self._open:
                self._counts = True

    def _stop_counting(self) -> None:
        self._counts, self._open = False, _NO_TOKEN  # it does not begin again

    def feed(self, text: str) -> tuple[str, str]:
        """More output; returns the reasoning and the answer that it makes clear."""
        if self._stage is _Stage.DONE:
            return "", text
        self._held += text
        if self._stage is _Stage.START:
            self._start()
        reasoning = self._reason() if self._stage is _Stage.REASONING else ""
        if self._stage is _Stage.BREAK:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._stage = _Stage.DONE
        if self._stage is not _Stage.DONE:
            return reasoning, ""
        answer, self._held = self._held, ""
        return reasoning, answer

    def finish(self) -> tuple[str, str]:
        """What is still held back, when no more comes."""
        held, self._held = self._held, ""
        if self._stage is _Stage.REASONING:
            return held.rstrip("\n") if self._shown else held.strip("\n"), ""
        return "", held

    def _start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._held = text[len(THINK) :]
            self._stage = _Stage.REASONING
        elif not THINK.startswith(text):
            self._stage = _Stage.DONE
            self._tokens = 0
            self._stop_counting()

    def _reason(self) -> str:
        if not self._shown:
            self._held = self._held.lstrip("\n")
        if (end := self._held.find(THINK_END)) >= 0:
            reasoning, self._held = self._held[:end].rstrip("\n"), self._held[end + len(THINK_END) :]
            self._stage = _Stage.BREAK
            return reasoning
        visible = self._held[: len(self._held) - open_end(self._held, THINK_END)].rstrip("\n")
        self._held = self._held[len(visible) :]
        self._shown = self._shown or bool(visible)
        return visible


class _Stage(Enum):
    START = auto()  # it is not clear whether there is reasoning
    REASONING = auto()
    BREAK = auto()  # line breaks after it
    DONE = auto()
