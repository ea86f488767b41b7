"""Questions have one right answer; drawn by hand where it matters."""

from __future__ import annotations

from random import Random

import pytest

from deploy.demo.scenes.asking import PICTURE_KINDS, ask_about, ask_about_clip, ask_about_pair, describe
from deploy.demo.scenes.question import Kind
from deploy.demo.scenes.scene import COLOURS, Background, Clip, Scene, Thing

PLAIN = Background(pattern="plain", first=(255, 255, 255), second=(255, 255, 255), period=8)


def thing(name: str, x: int, y: int, radius: int, digit: int | None = None) -> Thing:
    colour, shape = name.split()
    return Thing(shape=shape, colour=colour, tint=COLOURS[colour], x=x, y=y, radius=radius, digit=digit)


def scene(*things: Thing) -> Scene:
    return Scene(width=200, height=200, things=things, background=PLAIN, noise=0, noise_seed=0)


TWO = scene(thing("red circle", 50, 50, 30), thing("blue square", 150, 60, 20, digit=7))
SAME_SHAPES = scene(thing("red circle", 50, 50, 30), thing("blue circle", 150, 50, 29))


def answers(of: Scene, kind: Kind) -> set[tuple[str, str]]:
    asked = [ask_about(of, kind, Random(seed)) for seed in range(40)]
    return {(question.text, question.answer) for question in asked if question}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("colour", ("What colour is the square?", "It is blue.")),
        ("shape", ("Which shape is red?", "It is a circle.")),
        ("count", ("How many objects are there?", "There are 2 objects.")),
        ("count of one shape", ("How many crosses are there?", "There are 0 crosses.")),
        ("count of one shape", ("How many squares are there?", "There is 1 square.")),
        ("left or right", ("Is the red circle left or right of the blue square?", "It is left of the blue square.")),
        ("at a place", ("What is in the top left?", "A red circle.")),
        ("largest", ("What is the largest object?", "The red circle.")),
        ("larger of two", ("Which is larger, the blue square or the red circle?", "The red circle.")),
        ("description", ("What is in this image?", "There are 2 objects: a red circle and a blue square.")),
        ("grounding", ("Where is the red circle?", '{"bbox_2d": [100, 100, 400, 400]}')),
        ("digit", ("Which digit is on the blue square?", "The digit is 7.")),
        ("follow-up", ("And the square?", "It is blue.")),
    ],
)
def test_questions_and_answers(kind: Kind, expected: tuple[str, str]) -> None:
    assert expected in answers(TWO, kind)


@pytest.mark.parametrize("kind", ["colour", "above or below", "largest", "larger of two", "digit"])
def test_what_has_no_clear_answer_is_not_asked(kind: Kind) -> None:
    assert answers(SAME_SHAPES, kind) == set()


def test_every_kind_is_known() -> None:
    for kind in PICTURE_KINDS:
        for question in (ask_about(TWO, kind, Random(seed)) for seed in range(5)):
            assert question is None or question.kind == kind


def test_a_follow_up_has_its_first_turn() -> None:
    question = next(q for seed in range(9) if (q := ask_about(TWO, "follow-up", Random(seed))) and "square" in q.text)
    assert question.history == (("What colour is the circle?", "It is red."),)


def test_two_pictures() -> None:
    one = scene(thing("red circle", 50, 50, 30))
    assert (question := ask_about_pair((one, TWO), "more objects", Random(0)))
    assert question.answer == "The second picture."
    assert (question := ask_about_pair((one, TWO), "which of two images", Random(0)))
    assert (question.text, question.answer) == ("Which picture shows a blue square?", "The second picture.")
    assert ask_about_pair((one, one), "more objects", Random(0)) is None
    assert ask_about_pair((one, one), "which of two images", Random(0)) is None


def test_a_clip() -> None:
    clip = Clip(scene=TWO, way="down", step=10, frames=4)
    question = ask_about_clip(clip, Random(0))
    assert "the circle" in question.text
    assert question.answer == "It moves down."


def test_descriptions_go_from_left_to_right() -> None:
    things = (thing("orange star", 90, 1, 9), thing("red cross", 50, 1, 9), thing("blue star", 70, 1, 9))
    assert describe(things) == "There are 3 objects: a red cross, a blue star and an orange star."
    assert describe(things[:1]) == "There is an orange star."
