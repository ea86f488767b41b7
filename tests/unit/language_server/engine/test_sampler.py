"""The draw: what each parameter leaves, that the frequencies are right, and that it depends on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from language_server.engine.request import Request, SamplingParams
from language_server.engine.sampler import Sampler, uniform

VOCAB = 12
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, 9.0])
BANNED = 11  # by far the likeliest


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
    return Sampler(banned=[BANNED], device=torch.device("cpu"))


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
    crowd = [request(index, temperature=0.7, seed=index) for index in range(5)]
    among = sampler.sample(LOGITS.repeat(6, 1), [*crowd, request(7, temperature=1.0, seed=3)])
    assert among[-1:] == alone
    draws = {uniform(seed, choice, index) for seed in range(10) for choice in range(10) for index in range(10)}
    assert len(draws) == 1000
    assert all(0 <= value < 1 for value in draws)


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
    assert sampler.sample(logits, requests) == [None, 0]
