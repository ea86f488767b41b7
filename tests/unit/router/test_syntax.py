from __future__ import annotations

import pytest

from router.syntax import THINK_END, open_end


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("", 0),
        ("a", 0),
        ("a<", 1),
        ("a<</", 2),
        ("</thin", 6),
        ("</think", 7),
        ("</think>", 0),
        ("</thinx", 0),
        ("</</think", 7),
    ],
)
def test_where_a_mark_may_be_coming(text: str, length: int) -> None:
    assert open_end(text, THINK_END) == length
