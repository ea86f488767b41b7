from __future__ import annotations

import pytest

from deploy.demo.scenes.question import Kind, Question
from deploy.demo.scenes.scoring import iou, is_right, parse_box, score


def question(kind: Kind, answer: str) -> Question:
    return Question(kind=kind, text="?", answer=answer)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 100, 100), (0, 0, 100, 100), 1.0),
        ((0, 0, 100, 100), (50, 0, 150, 100), 1 / 3),
        ((0, 0, 100, 100), (100, 0, 200, 100), 0.0),
        ((0, 0, 100, 100), (100, 100, 0, 0), 0.0),
    ],
)
def test_iou(one: tuple[int, int, int, int], other: tuple[int, int, int, int], expected: float) -> None:
    assert iou(one, other) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No.",
        "{}",
        "[]",
        "3",
        '{"bbox_2d": 1}',
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": [1, 2, 3, "4"]}',
        '{"bbox_2d": [1, 2, 3, 4.5]}',
    ],
)
def test_what_is_no_box(text: str) -> None:
    assert parse_box(text) is None


def test_grounding_is_scored_by_overlap() -> None:
    asked = question("grounding", '{"bbox_2d": [100, 100, 200, 200]}')
    assert score(asked, '{"bbox_2d": [110, 100, 200, 200]}') == pytest.approx(0.9)
    assert not is_right(asked, '{"bbox_2d": [150, 100, 200, 200]}')
    assert score(asked, "I don't know") == 0.0


def test_a_description_is_right_in_any_order() -> None:
    asked = question("description", "There are 2 objects: a red star and a blue cross.")
    assert is_right(asked, "a blue cross, a red star")
    assert not is_right(asked, "a blue cross")
    assert not is_right(asked, "a blue star and a red cross")
    assert not is_right(asked, "a red star, a red star and a blue cross")


def test_other_answers_are_compared_as_text() -> None:
    asked = question("colour", "It is red.")
    assert is_right(asked, " It is red.\n")
    assert not is_right(asked, "It is red")
