"""How right an answer is."""

from __future__ import annotations

import json
import re
from collections import Counter

from deploy.demo.scenes.question import Question
from deploy.demo.scenes.scene import COLOURS, SHAPES, Box

HIT_IOU = 0.5  # from here on a box counts as found

_THING = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def score(question: Question, answer: str) -> float:
    """1 for right and 0 for wrong; for grounding the intersection over union with the true box.

    A description is right if it names the same things as the true one, in any order. All other answers are compared as
    text: at temperature 0 a model that knows them knows their wording.
    """
    if question.kind == "grounding":
        box, truth = parse_box(answer), parse_box(question.answer)
        assert truth is not None, f"not a box: {question.answer}"
        return iou(box, truth) if box is not None else 0.0
    if question.kind == "description":
        return float(Counter(_THING.findall(answer)) == Counter(_THING.findall(question.answer)))
    return float(answer.strip() == question.answer)


def is_right(question: Question, answer: str) -> bool:
    """`score` as yes or no."""
    return score(question, answer) > HIT_IOU


def parse_box(text: str) -> Box | None:
    """The box in an answer, in thousandths of the picture; None if there is none."""
    try:
        box = json.loads(text)["bbox_2d"]
        left, top, right, bottom = box
    except (ValueError, KeyError, TypeError):
        return None
    if not all(type(side) is int for side in box):
        return None
    return left, top, right, bottom


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where a box is empty or inside out."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
