"""The evaluation set is what it was, and nobody can have trained on it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from deploy.demo.scenes.frozen import digest, frozen_cases
from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import is_held_out
from deploy.demo.scenes.scoring import is_right
from deploy.demo.scenes.table import TARGETS
from deploy.demo.train.curriculum import draw_cases
from deploy.demo.train.stages import STAGES

# Of every question, answer and pixel. It changes only together with the results in docs/demo-model.md.
FROZEN = "b477166212aaf47f68afd865492c7f4ad78cc890639251b0b2c82cb06e878764"


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return frozen_cases()


def test_it_is_frozen(cases: list[Case]) -> None:
    assert digest(cases) == FROZEN


def test_it_has_enough_of_every_kind(cases: list[Case]) -> None:
    counts = Counter(case.questions[0].kind for case in cases)
    assert len(cases) >= 1000
    assert all(counts[kind] >= 50 for kind in TARGETS)
    assert {case.questions[0].kind for case in cases[:30]} == set(counts), "a slice must have all kinds"


def test_truth_is_right(cases: list[Case]) -> None:
    assert all(is_right(case.questions[0], case.questions[0].answer) for case in cases)


def test_no_scene_is_in_both_sets(cases: list[Case]) -> None:
    evaluated = {scene.identity for case in cases for scene in case.scenes}
    assert all(map(is_held_out, evaluated))
    rng = Random(0)
    for stage in STAGES:
        drawn = {scene.identity for _ in range(12) for case in draw_cases(rng, stage) for scene in case.scenes}
        assert drawn
        assert not any(map(is_held_out, drawn))
