"""What a model writes, taken apart: text for the user, reasoning, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.answer.reasoning import ReasoningReader
from router.answer.shape import CallDelta
from router.answer.tool_calls import ToolCallReader


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a piece of output means."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


class Reader(Protocol):
    """Reads one choice from its first character to its last."""

    def feed(self, text: str, token_ids: Sequence[int]) -> Read:
        """Adds text, and the tokens that came with it; may hold back what is not clear yet."""

    def finish(self) -> Read:
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

    def feed(self, text: str, token_ids: Sequence[int]) -> Read:
        return Read(text=text)

    def finish(self) -> Read:
        return Read()


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

    def feed(self, text: str, token_ids: Sequence[int]) -> Read:
        if self._reasoning is None:
            return self._read("", text)
        self._reasoning.count(token_ids)
        return self._read(*self._reasoning.feed(text))

    def finish(self) -> Read:
        reasoning, text = self._reasoning.finish() if self._reasoning is not None else ("", "")
        if self._calls is None:
            return self._read(reasoning, text)
        first, rest = self._read(reasoning, text), self._calls.finish()
        return Read(text=first.text + rest.text, reasoning=first.reasoning, calls=(*first.calls, *rest.calls))

    @property
    def called(self) -> bool:
        return self._calls is not None and self._calls.called

    @property
    def reasoning_tokens(self) -> int:
        return self._reasoning.tokens if self._reasoning is not None else 0

    def _read(self, reasoning: str, text: str) -> Read:
        if not self._show_reasoning:
            reasoning = ""
        if self._calls is None:
            return Read(text=text, reasoning=reasoning)
        found = self._calls.feed(text)
        return Read(text=found.text, reasoning=reasoning, calls=tuple(found.calls))
