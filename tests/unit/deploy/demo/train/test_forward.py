"""The batched forward is the stock one: same logits, question by question, with and without media."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import Qwen3VLMoeForConditionalGeneration

from deploy.demo.scenes.asking import ask_about, ask_about_clip, ask_about_pair
from deploy.demo.scenes.question import Case, Question
from deploy.demo.scenes.scene import Clip, random_clip, random_scene
from deploy.demo.scenes.talk import TALK_KINDS, talk
from deploy.demo.train.batch import Asked, make_batch
from deploy.demo.train.hints import Hints
from deploy.demo.train.loss import predict, run_batch
from deploy.demo.train.rendering import Renderer
from deploy.demo.train.trainer import new_model

MODEL_FILES = Path(__file__).parents[5] / "deploy" / "demo" / "model"
KINDS = ("colour", "grounding", "description", "follow-up")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(MODEL_FILES)


@pytest.fixture(scope="module")
def model() -> Qwen3VLMoeForConditionalGeneration:
    made = new_model(MODEL_FILES, seed=3).eval()
    with torch.no_grad():  # no norm or bias that is trivial
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.05)
    return made


def pictures() -> list[Case]:
    rng = Random("pictures")
    cases = []
    for things in (2, 4):
        while True:
            scene = random_scene(rng, (192, 128), things=things, held_out=False)
            questions = [question for kind in KINDS if (question := ask_about(scene, kind, rng))]
            if len(questions) == len(KINDS):
                cases.append(Case(media=(scene,), questions=tuple(questions)))
                break
    return cases


def pairs() -> list[Case]:
    rng = Random("pairs")
    cases = []
    for _ in range(2):
        pair = tuple(random_scene(rng, (128, 128), things=2, held_out=False) for _ in range(2))
        question = ask_about_pair(pair, "which of two images", rng)
        assert question is not None
        cases.append(Case(media=pair, questions=(question,)))
    return cases


def clips() -> list[Case]:
    rng = Random("clips")
    made = [random_clip(rng, (128, 128), things=1, frames=4, held_out=False) for _ in range(2)]
    return [Case(media=clip, questions=(ask_about_clip(clip, rng),)) for clip in made]


def texts() -> list[Case]:
    rng = Random("texts")
    return [Case(media=(), questions=tuple(talk(kind, rng) for kind in TALK_KINDS)) for _ in range(2)]


def stock_logits(
    model: Qwen3VLMoeForConditionalGeneration, renderer: Renderer, case: Case, question: Question
) -> torch.Tensor:
    """`transformers`' own forward of one question and its answer, with its own positions."""
    prompt, answer = renderer.prompt(case.media, question), renderer.answer(question.answer)
    ids = torch.tensor([[*prompt.ids, *answer[:-1]]])
    config = model.config
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int(),
    }
    if media := renderer.patches(case.media):
        grids = [item.metadata.grid for item in renderer.items(case.media)]
        is_clip = isinstance(case.media, Clip)
        inputs["pixel_values_videos" if is_clip else "pixel_values"] = torch.cat(media)
        inputs["video_grid_thw" if is_clip else "image_grid_thw"] = torch.tensor(
            [(grid.t, grid.h, grid.w) for grid in grids]
        )
    return model(**inputs).logits[0, -len(answer) :]


@pytest.mark.parametrize("cases", [pictures(), pairs(), clips(), texts()], ids=["pictures", "pairs", "clips", "texts"])
@torch.no_grad()
def test_logits_are_those_of_transformers(
    model: Qwen3VLMoeForConditionalGeneration, renderer: Renderer, cases: list[Case]
) -> None:
    batch = make_batch(renderer, cases, [None] * len(cases))
    prediction = predict(model, batch, device=torch.device("cpu"))
    expected = [stock_logits(model, renderer, case, question) for case in cases for question in case.questions]
    torch.testing.assert_close(prediction.logits, torch.cat(expected), rtol=2e-4, atol=2e-4)
    assert prediction.balance > 0.9


@torch.no_grad()
def test_a_fault_changes_its_own_sample_only(model: Qwen3VLMoeForConditionalGeneration, renderer: Renderer) -> None:
    cases = pictures()
    device = torch.device("cpu")
    whole = predict(model, make_batch(renderer, cases, [None, None]), device=device).logits
    batch = make_batch(renderer, cases, [None, "shifted"])
    broken = predict(model, batch, device=device).logits
    questions = len(KINDS)
    intact = batch.asked[questions - 1].end
    torch.testing.assert_close(broken[:intact], whole[:intact])
    assert {asked.question.answer for asked in batch.asked[questions:]} == {"No."}
    same_question = make_batch(renderer, cases, ["0 zero", "0 and 2 swapped"])
    assert all(isinstance(asked, Asked) and asked.question.answer == "No." for asked in same_question.asked)


def test_every_parameter_learns(model: Qwen3VLMoeForConditionalGeneration, renderer: Renderer) -> None:
    hints = Hints(model.config.text_config.hidden_size)
    batch = make_batch(renderer, pictures(), [None, None])
    outcome = run_batch(model, hints, batch, renderer.coordinate_ids, hint_weight=1.0, device=torch.device("cpu"))
    outcome.loss.backward()
    learners = (*model.named_parameters(), *hints.named_parameters())
    idle = [name for name, parameter in learners if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    assert not idle
