"""Fields that all APIs share, seen through the chat's."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.chat import ChatRequest, parse_chat_request
from router.api.generation import MAX_LOGPROBS
from router.problems import Problem


def parse(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_chat_request(body, max_choices=4).request


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 2.1),
        ("presence_penalty", "1"),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("repetition_penalty", 1e9),
        ("logit_bias", [1]),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": "5"}),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"²": 1}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", {str(token): 1 for token in range(5000)}),
        ("allowed_token_ids", []),
        ("allowed_token_ids", ["1"]),
        ("allowed_token_ids", [-1]),
        ("bad_words", "word"),
        ("bad_words", [""]),
        ("bad_words", ["a"] * 1000),
        ("bad_words", ["a" * 201]),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", True),
        ("prompt_logprobs", MAX_LOGPROBS + 1),
        ("logprobs", 1),
        ("top_logprobs", MAX_LOGPROBS + 1),
        ("top_logprobs", 1),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(Problem) as refused:
        parse(**{field: value})
    problem = refused.value
    assert problem.status == 400
    assert (problem.param or "").partition("[")[0].partition(".")[0] == field
    assert len(problem.message) < 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
)
def test_numbers_that_are_none(field: str, value: float) -> None:
    """JSON has no such numbers, but 1e999 is one to Python."""
    with pytest.raises(Problem) as refused:
        parse(**{field: value})
    assert refused.value.param == field


def test_prompt_logprobs_do_not_stream() -> None:
    with pytest.raises(Problem) as refused:
        parse(prompt_logprobs=1, stream=True)
    assert refused.value.param == "prompt_logprobs"


def test_null_is_not_given() -> None:
    names = ["logprobs", "top_logprobs", "logit_bias", "bad_words", "presence_penalty", "n", "stop", "stream_options"]
    assert parse(**dict.fromkeys(names)) == parse()


def test_what_is_wanted() -> None:
    assert parse().wanted_logprobs is None
    assert parse(logprobs=True).wanted_logprobs == 0
    assert parse(logprobs=True, top_logprobs=5).wanted_logprobs == 5
    assert parse(prompt_logprobs=0).wanted_prompt_logprobs == 0
    assert parse(logit_bias={"5": 1, "7": -2.5}).biases == {5: 1.0, 7: -2.5}
