"""What a model writes, taken apart: text for the user, reasoning, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.answer.reasoning import ReasoningReader
from router.answer.shape import Read
from router.answer.tool_calls import ToolCallReader


class Reader(Protocol):
    """Reads one choice from its first character to its last."""

    def feed(self, text: str, token_ids: Sequence[int]) -> list[Read]:
        """Adds text, and the tokens that came with it; may hold back what is not clear yet."""

    def finish(self) -> list[Read]:
        """Nothing more comes: what was held back."""

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""

    @property
    def reasoning_tokens(self) -> int:
        """So far."""


class PlainReader:
    """All is text."""

    called = False
    reasoning_tokens = 0

    def __init__(self) -> None:
        self._length = 0

    def feed(self, text: str, token_ids: Sequence[int]) -> list[Read]:
        if not text:
            return []
        begin, self._length = self._length, self._length + len(text)
        return [Read(text=text, span=(begin, self._length))]

    def finish(self) -> list[Read]:
        return []


class ModelReader:
    """Reasoning first, then text and tool calls.

    Args:
        reasoning: None if there is none to be expected.
        calls: None if all that follows is text.
        show_reasoning: otherwise it is left out.
    """

    def __init__(
        self, *, reasoning: ReasoningReader | None, calls: ToolCallReader | None, show_reasoning: bool
    ) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self._show_reasoning = show_reasoning
        self._length = 0  # characters of the output
        self._answer_length = 0  # of what follows the reasoning

    def feed(self, text: str, token_ids: Sequence[int]) -> list[Read]:
        self._length += len(text)
        if self._reasoning is None:
            return self._read("", text)
        self._reasoning.count(token_ids)
        return self._read(*self._reasoning.feed(text))

    def finish(self) -> list[Read]:
        reads = self._read(*self._reasoning.finish()) if self._reasoning is not None else []
        return reads if self._calls is None else reads + self._placed(self._calls.finish())

    @property
    def called(self) -> bool:
        return self._calls is not None and self._calls.called

    @property
    def reasoning_tokens(self) -> int:
        return self._reasoning.tokens if self._reasoning is not None else 0

    def _read(self, reasoning: str, text: str) -> list[Read]:
        reads = [Read(reasoning=reasoning)] if reasoning and self._show_reasoning else []
        if not text:
            return reads
        self._answer_length += len(text)
        if self._calls is not None:
            return reads + self._placed(self._calls.feed(text))
        reads.append(Read(text, span=(self._length - len(text), self._length)))
        return reads

    def _placed(self, reads: list[Read]) -> list[Read]:
        """In the output, not in the answer: that is the end of the output, once there is any."""
        before = self._length - self._answer_length
        return [read._replace(span=(read.span[0] + before, read.span[1] + before)) for read in reads]
