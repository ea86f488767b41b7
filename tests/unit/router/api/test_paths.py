"""Fields of translated requests, in the client's own terms."""

from __future__ import annotations

import pytest

from router.api.paths import UNCHANGED, Paths
from router.problems import Problem

PATHS = Paths({"messages": "input", "messages[1]": "input[2]", "messages[1].content": "input[2].output", "a": "b"})


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("messages", "input"),
        ("messages[1].content[0].text", "input[2].output[0].text"),
        ("messages[1].role", "input[2].role"),
        ("messages[10]", "input[10]"),
        ("a", "b"),
        ("ab", "ab"),
        ("seed", "seed"),
    ],
)
def test_origins(path: str, origin: str) -> None:
    assert PATHS.origin(path) == origin
    assert UNCHANGED.origin(path) == path


def test_problems() -> None:
    problem = Problem(400, "messages[1].content[0]: it is not an image", param="messages[1].content[0]", code="c")
    restored = PATHS.restore(problem)
    assert (restored.status, restored.message, restored.param, restored.code) == (
        400,
        "input[2].output[0]: it is not an image",
        "input[2].output[0]",
        "c",
    )
    unnamed = Problem(503, "no server is ready")
    assert PATHS.restore(unnamed) is unnamed
    with pytest.raises(Problem) as caught, PATHS.restored():
        raise Problem(400, "too long", param="a")
    assert (caught.value.message, caught.value.param) == ("too long", "b")
