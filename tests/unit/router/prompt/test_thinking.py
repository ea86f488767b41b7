from __future__ import annotations

import pytest

from router.prompt.template import Piece
from router.prompt.thinking import Thinking, thinking_of

TURN, BEGIN, END = 1, 2, 3
MARKS = {"<|im_start|>": TURN, "<think>": BEGIN, "</think>": END}


@pytest.mark.parametrize(
    ("pieces", "thinking"),
    [
        ([TURN, "assistant\n<think>\n"], Thinking.BEGUN),
        ([TURN, "assistant\n<think>\nwell, "], Thinking.BEGUN),
        ([TURN, "assistant\n<think>\n\n</think>\n\n"], Thinking.NONE),
        ([TURN, "assistant\n"], Thinking.POSSIBLE),
        ([TURN, "user\n<think>", TURN, "assistant\n"], Thinking.POSSIBLE),
        ([TURN, "user\n</think>", TURN, "assistant\n<think>"], Thinking.BEGUN),
        # as special tokens
        ([TURN, "assistant\n", BEGIN, "\n"], Thinking.BEGUN),
        ([TURN, "assistant\n", BEGIN, "\n\n", END, "\n\n"], Thinking.NONE),
        ([BEGIN, TURN, "assistant\n"], Thinking.POSSIBLE),
        ([], Thinking.POSSIBLE),
    ],
)
def test_the_open_turn_tells(pieces: list[Piece], thinking: Thinking) -> None:
    assert thinking_of(pieces, MARKS) is thinking
