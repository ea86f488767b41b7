"""Both ways through a checkpoint give the same answers, intact and broken; random weights are enough to see that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploy.demo.offline.answer import NEAR_TIE, Answer, compare
from deploy.demo.offline.reference import Reference
from deploy.demo.offline.served import Served
from deploy.demo.random_weights import write_checkpoint
from deploy.demo.scenes.frozen import frozen_cases
from deploy.demo.scenes.question import Kind
from deploy.demo.train.faults import Fault, all_faults, shift

KINDS: tuple[Kind, ...] = ("colour", "which of two images", "motion", "follow-up", "sum")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("offline") / "model").parent


@pytest.mark.parametrize("fault", [None, shift, all_faults(3)["0 and 2 swapped"]], ids=["intact", "shifted", "swapped"])
def test_the_engine_agrees_with_transformers(checkpoint: Path, fault: Fault | None) -> None:
    cases = [case for case in frozen_cases(20) if case.questions[0].kind in KINDS]
    assert len(cases) == len(KINDS)
    reference = Reference(checkpoint, torch.float32)
    expected = [reference.answer(case, fault) for case in cases]
    served = Served(checkpoint, torch.float32)
    try:
        served.answers(cases, None if fault else shift)  # what that left in the caches is not taken for this one
        made = served.answers(cases, fault)
    finally:
        served.close()
    agreement = compare(expected, [answer.text for answer in made])
    assert set(agreement.different) <= set(agreement.near_ties), str(agreement)


def test_a_fault_changes_the_answer(checkpoint: Path) -> None:
    case = next(case for case in frozen_cases(20) if case.questions[0].kind == "colour")
    reference = Reference(checkpoint, torch.float32)
    intact = reference.answer(case, None)
    assert all(reference.answer(case, fault).margin != intact.margin for fault in all_faults(3).values())


def test_agreement_counts_near_ties_apart() -> None:
    reference = [Answer(text=text, margin=margin) for text, margin in (("a", 1.0), ("b", 1.0), ("c", NEAR_TIE / 2))]
    agreement = compare(reference, ["a ", "x", "y"])
    assert (agreement.items, agreement.different, agreement.near_ties) == (3, (1, 2), (2,))
    assert str(agreement) == ("1 of 3 answers agree (33.3%); of the 2 others 1 were decided by a margin under 0.001")
