"""A slice of the frozen questions: answers are the reference's, and right, because the pictures are seen."""

from __future__ import annotations

from pathlib import Path

import httpx
import torch

from deploy.demo.evaluate import Reply, ask_all
from deploy.demo.offline.answer import compare
from deploy.demo.offline.reference import Reference
from deploy.demo.scenes.frozen import frozen_cases
from deploy.demo.scenes.scoring import is_right
from deploy.demo.train.faults import all_faults
from deploy.programs import demo_folder
from tests.serving import TIMEOUT, Served

CASES = frozen_cases(100)
QUESTIONS = [case.questions[0] for case in CASES]
SEEING = [index for index, case in enumerate(CASES) if case.scenes]


async def replies(served: Served, *, blind: bool = False) -> list[str]:
    async with httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT, trust_env=False) as client:
        found: list[Reply] = await ask_all(client, "demo", CASES, blind=blind)
    assert not [reply.error for reply in found if reply.error]
    return [reply.text for reply in found]


def share_right(answers: list[str]) -> float:
    """Of the questions about pictures."""
    return sum(is_right(QUESTIONS[index], answers[index]) for index in SEEING) / len(SEEING)


async def test_answers_are_the_references_and_right(seeing: Served) -> None:
    answers = await replies(seeing)
    reference = Reference(demo_folder() / "model", torch.float32)
    agreement = compare([reference.answer(case, None) for case in CASES], answers)
    assert set(agreement.different) <= set(agreement.near_ties), str(agreement)
    assert len(agreement.near_ties) <= 1, str(agreement)
    assert share_right(answers) >= 0.95


async def test_without_the_pictures_nobody_knows(seeing: Served) -> None:
    assert share_right(await replies(seeing, blind=True)) < 0.25


def test_the_checkpoint_is_small_and_published_as_qwens_are() -> None:
    model: Path = demo_folder() / "model"
    assert (model / "model.safetensors").stat().st_size <= 12_000_000
    names = {file.name for file in model.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.json", "preprocessor_config.json"} <= names


def test_a_broken_level_shows() -> None:
    """What deploy/demo/offline measures on all questions, on few: no level can be missing or out of place."""
    reference = Reference(demo_folder() / "model", torch.bfloat16)
    cases = [case for case in CASES if case.questions[0].kind in ("colour", "description", "shape")]
    intact = [reference.answer(case, None).text for case in cases]
    for name, fault in all_faults(3).items():
        same = sum(reference.answer(case, fault).text == text for case, text in zip(cases, intact, strict=True))
        assert same < 0.7 * len(cases), name
