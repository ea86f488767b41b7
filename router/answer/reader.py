"""What a model writes, taken apart: text for the user, reasoning, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.answer.shape import CallDelta


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
