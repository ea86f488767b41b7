"""The draw: what each parameter leaves, that the frequencies are right, and that it depends on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InternalError, InvalidRequestError
from language_server.engine.grammar_masks import GrammarMasks
from language_server.engine.request import Request
from language_server.engine.sampler import Sampler, uniform
from language_server.engine.sampling_params import SamplingParams

VOCAB = 12
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, 9.0])
BANNED = 11  # by far the likeliest


RULES: list[dict[str, object]] = [
    {},
    {"repetition_penalty": 1.2},
    {"logit_bias": ((3, 2.0),)},
    {"top_p": 0.999},
    {"presence_penalty": 0.5, "min_p": 0.01},
]


def request(index: int = 0, **sampling: object) -> Request:
    return Request(
        handle=1,
        request_id="",
        arrival=0,
        salt=b"",
        prompt_ids=[1],
        spans=(),
        sampling=SamplingParams(max_tokens=1000, **sampling),
        positions=np.zeros((3, 1), dtype=np.int64),
        position_delta=0,
        output_ids=[0] * index,
    )


@pytest.fixture
def sampler() -> Sampler:
    cpu = torch.device("cpu")
    return Sampler(banned=[BANNED], masks=GrammarMasks(max_rows=4, vocab_size=VOCAB, device=cpu), device=cpu)


def draw(sampler: Sampler, count: int, **sampling: object) -> list[int]:
    """`count` successive draws."""
    requests = [request(index, **sampling) for index in range(count)]
    return sampler.sample(LOGITS.repeat(count, 1), requests)


def test_greedy_takes_the_likeliest_that_is_not_banned(sampler: Sampler) -> None:
    assert draw(sampler, 3) == [0, 0, 0]


def test_frequencies_follow_the_softmax(sampler: Sampler) -> None:
    count = 20_000
    tokens = torch.tensor(draw(sampler, count, temperature=1.3, seed=5))
    expected = torch.softmax(LOGITS[:BANNED] / 1.3, dim=0)
    measured = torch.bincount(tokens, minlength=VOCAB)[:BANNED] / count
    assert (measured - expected).abs().max() < 0.012  # over three standard deviations of the likeliest
    assert BANNED not in tokens


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        ({"top_k": 3}, 3),
        ({"top_p": 0.65}, 3),  # the third begins at 0.635
        ({"min_p": 0.3}, 3),  # 1, 0.61, 0.37 of the likeliest; 0.22 is out
        ({"top_k": 1}, 1),
        ({"top_p": 1e-9}, 1),
        ({"top_k": 5, "top_p": 0.65}, 2),  # of what top-k leaves, the third begins at 0.689
        ({}, BANNED),
    ],
)
def test_what_the_filters_leave(sampler: Sampler, sampling: dict[str, float], left: int) -> None:
    assert set(draw(sampler, 4000, temperature=1.0, seed=1, **sampling)) == set(range(left))


def test_the_draw_depends_on_seed_choice_and_index_only(sampler: Sampler) -> None:
    alone = sampler.sample(LOGITS[None].clone(), [request(7, temperature=1.0, seed=3)])
    crowd = [request(index, temperature=0.7, seed=index, **RULES[index]) for index in range(5)]
    among = sampler.sample(LOGITS.repeat(6, 1), [*crowd, request(7, temperature=1.0, seed=3)])
    assert among[-1:] == alone
    draws = {uniform(seed, choice, index) for seed in range(10) for choice in range(10) for index in range(10)}
    assert len(draws) == 1000
    assert all(0 <= value < 1 for value in draws)


def test_nearly_equal_tokens_do_not_change_places(sampler: Sampler) -> None:
    """Rounding differs from batch to batch: it must not decide which of two equals a draw means."""
    logits = torch.zeros(1000, VOCAB)
    requests = [request(index, temperature=1.0, seed=4, **RULES[index % 5]) for index in range(1000)]
    exact = sampler.sample(logits.clone(), requests)
    for noise in range(3):
        generator = torch.Generator().manual_seed(noise)
        noisy = sampler.sample(logits + 1e-6 * torch.randn(logits.shape, generator=generator), requests)
        assert sum(a != b for a, b in zip(exact, noisy, strict=True)) <= 1


def test_no_end_before_min_tokens(sampler: Sampler) -> None:
    ends = frozenset([0, 1])
    assert sampler.sample(LOGITS.repeat(2, 1), [request(i, min_tokens=2, stop_token_ids=ends) for i in (1, 2)]) == [
        2,
        0,
    ]


@pytest.mark.parametrize("sampling", [{"temperature": 1e-38}, {"temperature": 1.0, "top_p": 1e-46}])
def test_extremes_take_the_likeliest(sampler: Sampler, sampling: dict[str, float]) -> None:
    assert set(draw(sampler, 50, seed=1, **sampling)) == {0}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_without_sound_logits_draw_nothing_and_spare_the_others(
    sampler: Sampler, value: float, temperature: float
) -> None:
    logits = torch.stack([torch.full((VOCAB,), value), LOGITS])
    requests = [request(0, temperature=temperature, seed=2), request(0)]
    unsound, sound = sampler.sample(logits, requests)
    assert isinstance(unsound, InternalError)
    assert sound == 0


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"allowed_token_ids": (BANNED,)}, "allowed_token_ids leave no token"),
        ({"allowed_token_ids": (3,), "bad_words": ((3,),)}, "allowed_token_ids and bad_words leave no token"),
        (
            {"allowed_token_ids": (3,), "min_tokens": 2, "stop_token_ids": frozenset([3])},
            "allowed_token_ids and min_tokens leave no token",
        ),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_that_leaves_no_token_is_told_why_and_spares_the_others(
    sampler: Sampler, temperature: float, sampling: dict[str, object], message: str
) -> None:
    requests = [request(0, temperature=temperature, **sampling), request(0, allowed_token_ids=(4,))]
    error, token = sampler.sample(LOGITS.repeat(2, 1), requests)
    assert isinstance(error, InvalidRequestError)
    assert message in error.message
    assert token == 4
