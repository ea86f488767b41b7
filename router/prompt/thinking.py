"""Whether a model thinks before it answers, as far as its prompt tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from router.prompt.template import Piece
from router.syntax import THINK, THINK_END


class Thinking(Enum):
    NONE = auto()
    POSSIBLE = auto()  # the answer may begin with <think>
    BEGUN = auto()  # the prompt ends within reasoning


def thinking_of(pieces: Sequence[Piece], marks: Mapping[str, int]) -> Thinking:
    """What the open turn at the end of a prompt tells.

    Args:
        pieces: of the prompt.
        marks: ids of added tokens, by string.
    """
    turn = _open_turn(pieces, {marks[mark]: mark for mark in (THINK, THINK_END) if mark in marks})
    begins, ends = turn.rfind(THINK), turn.rfind(THINK_END)
    if begins > ends:
        return Thinking.BEGUN
    return Thinking.NONE if ends >= 0 else Thinking.POSSIBLE


def _open_turn(pieces: Sequence[Piece], marks: Mapping[int, str]) -> str:
    """The text behind the last special token that is none of the `marks`."""
    turn = ""
    for piece in reversed(pieces):
        if isinstance(piece, str):
            turn = piece + turn
        elif piece in marks:
            turn = marks[piece] + turn
        else:
            break
    return turn
