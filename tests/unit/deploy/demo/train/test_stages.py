"""What comes when, and what is asked then."""

from __future__ import annotations

from random import Random

import pytest

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import is_held_out
from deploy.demo.train.curriculum import draw_cases
from deploy.demo.train.schedules import fault_share, hint_weight, rate
from deploy.demo.train.stages import STAGES, TOTAL_STEPS, Stage, stage_at


def pictures(stage: Stage, batches: int = 20) -> list[Case]:
    """Cases of one picture each."""
    cases = [case for seed in range(batches) for case in draw_cases(Random(seed), stage)]
    return [case for case in cases if isinstance(case.media, tuple) and len(case.media) == 1]


def test_stages_follow_each_other() -> None:
    ends = [stage.until for stage in STAGES]
    assert ends == sorted(ends)
    assert ends[-1] == TOTAL_STEPS
    assert stage_at(0) is STAGES[0]
    assert stage_at(STAGES[0].until) is STAGES[0]
    assert stage_at(STAGES[0].until + 1) is STAGES[1]
    assert stage_at(TOTAL_STEPS) is STAGES[-1]


def test_rates() -> None:
    rates = [rate(step) for step in range(TOTAL_STEPS + 1)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 140
    assert rates[0] == rates[-1] == pytest.approx(0.02)
    assert rates[140:5301] == sorted(rates[140:5301], reverse=True)
    for begin, end in ((5301, 7400), (7500, TOTAL_STEPS)):  # up in between, and down again
        assert rates[begin : end + 1] == sorted(rates[begin : end + 1], reverse=True)


def test_hints_and_faults() -> None:
    assert hint_weight(0) == hint_weight(3300) == 1.0
    assert hint_weight(4550) == pytest.approx(0.5)
    assert hint_weight(5800) == hint_weight(TOTAL_STEPS) == 0.0
    assert fault_share(4000) == 0
    assert 0.1 <= fault_share(TOTAL_STEPS) < fault_share(4200) <= 0.2


def test_nothing_that_is_held_out_is_drawn() -> None:
    for stage in STAGES:
        assert not any(is_held_out(scene.identity) for case in pictures(stage, 3) for scene in case.scenes)


def test_twins_and_questions_about_them() -> None:
    stage = STAGES[3]
    with_room = [case.scenes[0] for case in pictures(stage) if len(case.scenes[0].things) > 1]
    twins = [scene for scene in with_room if len({thing.shape for thing in scene.things}) < len(scene.things)]
    assert len(twins) / len(with_room) > stage.twins
    asked = [question for case in pictures(stage) for question in case.questions]
    from_top = [question for question in asked if "top to bottom" in question.text]
    assert from_top
    assert {question.kind for question in from_top} == {"description"}


def test_which_picture_is_asked_more_often() -> None:
    pairs = [case for seed in range(40) for case in draw_cases(Random(seed), STAGES[5]) if len(case.scenes) == 2]
    kinds = [question.kind for case in pairs for question in case.questions]
    assert kinds.count("which of two images") > 2 * kinds.count("more objects") > 0
