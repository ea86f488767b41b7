"""The four kinds of fields, and what becomes of an unknown one."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import BadRequestError, OpenAI

from tests.integration.contract.asking import ask, text_of, user
from tests.integration.either.questions import GREETING, HELLO
from tests.serving import Served

NOTHING: dict[str, Any] = {
    "user": "me",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "safety_identifier": "x",
    "prompt_cache_key": "y",
    "store": True,
    "parallel_tool_calls": True,
}


def test_fields_that_ask_for_nothing(carol: OpenAI) -> None:
    """The guarded router knows them all."""
    assert text_of(ask(carol, HELLO, temperature=0, **NOTHING)) == GREETING
    assert text_of(ask(carol, HELLO, temperature=0, stop=None, logprobs=None, tools=None, seed=None)) == GREETING


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "priority"},
        {"functions": [{"name": "f"}]},
        {"extra_body": {"length_penalty": 2}},
        {"extra_body": {"use_beam_search": True}},
        {"extra_body": {"chat_template": "{{ messages }}"}},
        {"extra_body": {"prompt": "Hello!"}},
    ],
)
def test_fields_that_are_not_honoured(client: OpenAI, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, HELLO, **fields)
    assert caught.value.param == next(iter(fields.get("extra_body", fields)))


def test_unknown_fields(client: OpenAI, served: Served) -> None:
    before = served.metrics("router")["epd_ignored_fields_total"]
    raw = client.chat.completions.with_raw_response.create(
        model="demo",
        messages=[{"role": "user", "content": HELLO, "mood": "good"}],  # type: ignore[typeddict-unknown-key]
        temperature=0,
        extra_body={"zebra": 1, "lion": None},
    )
    assert raw.parse().choices[0].message.content == GREETING
    assert sorted(raw.headers["x-ignored-fields"].split(", ")) == ["messages[0].mood", "zebra"]
    assert served.metrics("router")["epd_ignored_fields_total"] == before + 2


def test_unknown_fields_of_a_strict_router(carol: OpenAI) -> None:
    messages = [{**user(HELLO)[0], "mood": "good"}]
    for fields, param in (({"extra_body": {"zebra": 1}}, "zebra"), ({"messages": messages}, "messages[0].mood")):
        with pytest.raises(BadRequestError) as caught:
            ask(carol, HELLO, **fields)
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": "gpt-9"}, "model", "model_not_found"),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0]", None),
        ({"content": "word " * 5000}, "messages", "context_length_exceeded"),
        ({"max_tokens": 10**6}, "messages", "context_length_exceeded"),
        ({"stream_options": {}}, "stream_options", None),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"n": 10**9}, "n", None),
        ({"temperature": -1}, "temperature", None),
        ({"top_p": 7}, "top_p", None),
        ({"logit_bias": {"99999": 1}}, "logit_bias", None),
        ({"tools": [], "tool_choice": "sometimes"}, "tool_choice", None),
        ({"extra_body": {"min_tokens": -1}}, "min_tokens", None),
    ],
)
def test_requests_that_are_wrong(client: OpenAI, fields: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, **fields)
    error = caught.value
    assert type(error) is (openai.NotFoundError if param == "model" else openai.BadRequestError)
    assert ((error.param or "").partition(".")[0], error.type) == (param, "invalid_request_error")
    assert code in (None, error.code)
