"""The language models against transformers': logits, greedy answers, deepstack, and every way to cut the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from common.models.config import ModelConfig, load_config
from common.models.mrope import mrope_positions
from common.models.qwen3_vl import Qwen3VLForConditionalGeneration
from common.models.registry import DeepStackLanguageModel, TextLanguageModel
from common.models.weights import load_language, load_vision, load_whole
from tests.checkpoints import write_checkpoint
from tests.paging import CachedSequence, PagedCache
from tests.random_prompts import Media, Prompt, make_prompt

TOLERANCE = 1e-4
MARGIN = 1e-3  # between the reference's best two logits: equality of greedy answers is well-posed
ANSWER = 48

IMAGE, LARGE, SMALLEST, WIDE, TALL = (
    Media(kind="image", grid=grid) for grid in ((1, 4, 6), (1, 20, 24), (1, 2, 2), (1, 2, 60), (1, 80, 2))
)
VIDEO = Media(kind="video", grid=(3, 4, 4))
PROMPTS: dict[str, Sequence[int | Media]] = {
    "text": [23],
    "image": [5, IMAGE, 9],
    "three images": [4, IMAGE, 3, SMALLEST, 6, LARGE, 8],
    "adjacent images": [IMAGE, SMALLEST],
    "video": [6, VIDEO, 7],
    "image and video": [3, VIDEO, 4, IMAGE, 5],
    "smallest image": [2, SMALLEST, 2],
    "extreme shapes": [3, WIDE, 2, TALL, 4],
}


@dataclass(frozen=True, kw_only=True)
class Trio:
    """One checkpoint as transformers loads it, and as our servers do."""

    config: ModelConfig
    reference: PreTrainedModel
    whole: Qwen3VLForConditionalGeneration
    language: DeepStackLanguageModel
    vision: Qwen3VLForConditionalGeneration


@pytest.fixture(scope="module", params=["moe", "dense"])
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    directory = write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    language = load_language(directory, dtype=torch.float32)
    assert isinstance(language, DeepStackLanguageModel)
    return Trio(
        config=load_config(directory),
        reference=AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval(),
        whole=load_whole(directory, dtype=torch.float32),
        language=language,
        vision=load_vision(directory, dtype=torch.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a language server has of a prompt once its embeddings have arrived; `deepstack` is None without vision."""

    ids: torch.Tensor
    positions: torch.Tensor
    delta: int
    embeds: torch.Tensor
    deepstack: torch.Tensor | None


def prepare(trio: Trio, prompt: Prompt) -> Inputs:
    assert trio.config.vision is not None
    positions, delta = mrope_positions(len(prompt.ids), prompt.spans, trio.config.vision.merge_size)
    embeds, deepstack = trio.language.embed_input_ids(prompt.ids), None
    if (media := prompt.media_inputs()) is not None:
        main, levels = trio.vision.separate_deepstack_embeds(trio.vision.visual(media.pixel_values, media.grid_thw))
        embeds = embeds.index_copy(0, media.rows, main)
        deepstack = torch.zeros(len(embeds), levels.shape[1]).index_copy(0, media.rows, levels)
    return Inputs(
        ids=prompt.ids, positions=torch.from_numpy(positions), delta=delta, embeds=embeds, deepstack=deepstack
    )


def prefill(
    trio: Trio, inputs: Inputs, cache: PagedCache, sequence: CachedSequence, chunk: int | None = None
) -> torch.Tensor:
    """Logits of all rows."""
    count = len(inputs.ids)
    bounds = [*range(0, count, chunk or count), count]
    logits = []
    for start, end in pairwise(bounds):
        logits.append(
            trio.language(
                inputs.ids[start:end],
                inputs.positions[:, start:end],
                cache.batch([(sequence, end - start)], all_logits=True),
                inputs.embeds[start:end],
                None if inputs.deepstack is None else inputs.deepstack[start:end],
            )
        )
    return torch.cat(logits)


def decode(
    trio: Trio, tokens: torch.Tensor, deltas: list[int], cache: PagedCache, sequences: list[CachedSequence]
) -> torch.Tensor:
    """One more token for each sequence: `[S]` to logits `[S, vocab]`."""
    positions = torch.tensor([sequence.length + delta for sequence, delta in zip(sequences, deltas, strict=True)])
    batch = cache.batch([(sequence, 1) for sequence in sequences])
    return trio.language(tokens, positions.expand(3, -1), batch)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt, the reference's logits for it `[tokens, vocab]`, and its greedy answer."""

    prompt: Prompt
    logits: torch.Tensor
    tokens: list[int]


def reference_answer(model: PreTrainedModel, config: ModelConfig, parts: Sequence[int | Media]) -> Answer:
    """For the first seed of the prompt with which every greedy choice is clear and the answer varies."""
    model.generation_config = GenerationConfig(
        max_new_tokens=ANSWER, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
    )
    for seed in range(20):
        prompt = make_prompt(config, parts, seed=seed)
        output = model.generate(**prompt.reference_inputs())
        top = torch.cat(output.logits).topk(2).values
        tokens: list[int] = output.sequences[0, len(prompt.ids) :].tolist()
        if (top[:, 0] - top[:, 1]).min() > MARGIN and len(tokens) == ANSWER and len(set(tokens)) > 8:
            return Answer(prompt=prompt, logits=model(**prompt.reference_inputs()).logits[0], tokens=tokens)
    raise AssertionError("no seed gives clear choices")


@pytest.fixture(scope="module")
def answers(trio: Trio) -> dict[str, Answer]:
    with torch.inference_mode():
        return {name: reference_answer(trio.reference, trio.config, parts) for name, parts in PROMPTS.items()}


def test_the_references_answers_are_not_degenerate(answers: dict[str, Answer]) -> None:
    assert len({tuple(answer.tokens) for answer in answers.values()}) == len(PROMPTS)


@pytest.mark.parametrize("name", PROMPTS)
@torch.inference_mode()
def test_disaggregated(name: str, trio: Trio, answers: dict[str, Answer]) -> None:
    inputs = prepare(trio, answers[name].prompt)
    cache, sequence = PagedCache(trio.config.text), CachedSequence()
    logits = prefill(trio, inputs, cache, sequence)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, answers[name].logits, atol=TOLERANCE, rtol=0)
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < ANSWER:
        step = decode(trio, torch.tensor(tokens[-1:]), [inputs.delta], cache, [sequence])
        tokens.append(int(step.argmax()))
    assert tokens == answers[name].tokens


@pytest.mark.parametrize("name", PROMPTS)
@torch.inference_mode()
def test_whole_model(name: str, trio: Trio, answers: dict[str, Answer]) -> None:
    prompt = answers[name].prompt
    inputs = prepare(trio, prompt)
    batch = PagedCache(trio.config.text).batch(
        [(CachedSequence(), len(prompt.ids))], all_logits=True, media=prompt.media_inputs()
    )
    logits = trio.whole(prompt.ids, inputs.positions, batch)
    torch.testing.assert_close(logits, answers[name].logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", PROMPTS)
def test_positions(name: str, trio: Trio) -> None:
    prompt = make_prompt(trio.config, PROMPTS[name])
    assert trio.config.vision is not None
    positions, delta = mrope_positions(len(prompt.ids), prompt.spans, trio.config.vision.merge_size)
    inputs = prompt.reference_inputs()
    expected, expected_delta = trio.reference.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=prompt.token_types[None],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
    )
    assert positions.tolist() == expected[:, 0].tolist()
    assert delta == int(expected_delta)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("damage", ["zeroed", "swapped"])
@torch.inference_mode()
def test_each_deepstack_level_matters(damage: str, level: int, trio: Trio, answers: dict[str, Answer]) -> None:
    inputs = prepare(trio, answers["image"].prompt)
    assert inputs.deepstack is not None
    damaged = inputs.deepstack.clone().unflatten(1, (3, -1))
    if damage == "zeroed":
        damaged[:, level] = 0
    else:
        damaged[:, [level, (level + 1) % 3]] = damaged[:, [(level + 1) % 3, level]]
    changed = Inputs(**{**vars(inputs), "deepstack": damaged.flatten(1)})
    logits = prefill(trio, changed, PagedCache(trio.config.text), CachedSequence())
    assert (logits - answers["image"].logits)[-1].abs().max() > 100 * TOLERANCE


@torch.inference_mode()
def test_no_deepstack_is_not_deepstack(trio: Trio, answers: dict[str, Answer]) -> None:
    inputs = prepare(trio, answers["image"].prompt)
    without = Inputs(**{**vars(inputs), "deepstack": None})
    logits = prefill(trio, without, PagedCache(trio.config.text), CachedSequence())
    assert (logits - answers["image"].logits)[-1].abs().max() > 100 * TOLERANCE


@torch.inference_mode()
def test_deepstack_of_a_wrong_shape(trio: Trio) -> None:
    inputs = prepare(trio, make_prompt(trio.config, PROMPTS["image"]))
    assert inputs.deepstack is not None
    short = Inputs(**{**vars(inputs), "deepstack": inputs.deepstack[:, : -trio.config.text.hidden_size]})
    with pytest.raises(ValueError, match=r"input_deepstack_embeds has shape \(22, 128\), expected \(22, 192\)"):
        prefill(trio, short, PagedCache(trio.config.text), CachedSequence())


@pytest.mark.parametrize("block_size", [1, 5, 16])
@pytest.mark.parametrize("chunk", [1, 7, 16])
@torch.inference_mode()
def test_chunked_prefill(chunk: int, block_size: int, trio: Trio, answers: dict[str, Answer]) -> None:
    inputs = prepare(trio, make_prompt(trio.config, PROMPTS["image and video"]))
    cache = PagedCache(trio.config.text, block_size=block_size)
    logits = prefill(trio, inputs, cache, CachedSequence(), chunk)
    torch.testing.assert_close(logits, answers["image and video"].logits, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_a_long_chunk_after_a_long_context(trio: Trio) -> None:
    """More rows than one tile of the attention, at an offset."""
    inputs = prepare(trio, make_prompt(trio.config, [900]))
    expected = trio.reference(input_ids=inputs.ids[None]).logits[0]
    logits = prefill(trio, inputs, PagedCache(trio.config.text), CachedSequence(), chunk=550)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_a_mixed_batch_equals_each_alone(trio: Trio) -> None:
    """Prefill chunks, their tails and decodes of very different lengths in one step."""
    cache = PagedCache(trio.config.text, block_size=5)
    lengths = [(40, 9), (300, 1), (2, 1), (17, 17), (33, 32), (1, 1)]  # tokens, of which in the shared step
    sequences, prepared = [], []
    for seed, (length, count) in enumerate(lengths):
        inputs, sequence = prepare(trio, make_prompt(trio.config, [length], seed=seed)), CachedSequence()
        if length > count:
            first = Inputs(
                ids=inputs.ids[:-count],
                positions=inputs.positions[:, :-count],
                delta=0,
                embeds=inputs.embeds[:-count],
                deepstack=None,
            )
            prefill(trio, first, cache, sequence)
        sequences.append((sequence, count))
        prepared.append(inputs)
    shared = trio.language(
        torch.cat([inputs.ids[-count:] for inputs, (_, count) in zip(prepared, sequences, strict=True)]),
        torch.cat([inputs.positions[:, -count:] for inputs, (_, count) in zip(prepared, sequences, strict=True)], 1),
        cache.batch(sequences),
    )
    for row, inputs in zip(shared, prepared, strict=True):
        alone = prefill(trio, inputs, PagedCache(trio.config.text), CachedSequence())[-1]
        torch.testing.assert_close(row, alone, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_one_bad_sequence_disturbs_nobody(trio: Trio) -> None:
    """A NaN in one sequence's cache, and blocks that it leaves behind, never reach another."""
    cache = PagedCache(trio.config.text, block_size=4, num_blocks=12)
    bad, good = CachedSequence(), CachedSequence()
    poisoned = prepare(trio, make_prompt(trio.config, [30]))
    prefill(trio, Inputs(**{**vars(poisoned), "embeds": poisoned.embeds * torch.nan}), cache, bad)
    inputs = prepare(trio, make_prompt(trio.config, [9], seed=1))
    prefill(trio, inputs, cache, good)
    logits = decode(trio, inputs.ids[:2], [0, 0], cache, [bad, good])
    assert logits[0].isnan().all()
    alone_cache, alone = PagedCache(trio.config.text), CachedSequence()
    prefill(trio, inputs, alone_cache, alone)
    expected = decode(trio, inputs.ids[1:2], [0], alone_cache, [alone])
    torch.testing.assert_close(logits[1:], expected, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_media_must_fill_its_rows(trio: Trio) -> None:
    prompt = make_prompt(trio.config, PROMPTS["image"])
    media = prompt.media_inputs()
    assert media is not None
    short = type(media)(pixel_values=media.pixel_values, grid_thw=media.grid_thw, rows=media.rows[:-1])
    batch = PagedCache(trio.config.text).batch([(CachedSequence(), len(prompt.ids))], media=short)
    with pytest.raises(ValueError, match="6 visual tokens for 5 placeholder rows"):
        trio.whole(prompt.ids, prepare(trio, prompt).positions, batch)


@torch.inference_mode()
def test_bfloat16_is_as_exact_as_the_reference(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "moe", dtype=torch.bfloat16)
    ids = torch.randint(1000, (64,), generator=torch.Generator().manual_seed(0))
    exact = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()(ids[None]).logits[0]
    theirs = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16).eval()(ids[None]).logits[0]
    model = load_language(directory, dtype=torch.bfloat16)
    cache = PagedCache(load_config(directory).text, dtype=torch.bfloat16)
    ours = model(ids, torch.arange(64).expand(3, -1), cache.batch([(CachedSequence(), 64)], all_logits=True))
    assert ours.dtype == torch.float32
    # a routing decision that rounding turns over makes single rows differ, so the typical row is compared
    assert (ours - exact).abs().median() < 1.1 * (theirs - exact).abs().median()


@pytest.mark.parametrize("kind", ["text_moe", "text_dense"])
@torch.inference_mode()
def test_text_only_models(kind: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, kind)  # type: ignore[arg-type]
    config = load_config(directory)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    answer = reference_answer(reference, config, [40])
    prompt = answer.prompt
    model = load_language(directory, dtype=torch.float32)
    assert isinstance(model, TextLanguageModel)
    cache, sequence = PagedCache(config.text), CachedSequence()
    logits = model(prompt.ids, torch.arange(40), cache.batch([(sequence, 40)], all_logits=True))
    torch.testing.assert_close(logits, answer.logits, atol=TOLERANCE, rtol=0)
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < ANSWER:
        position = torch.tensor([sequence.length])
        tokens.append(int(model(torch.tensor(tokens[-1:]), position, cache.batch([(sequence, 1)])).argmax()))
    assert tokens == answer.tokens
