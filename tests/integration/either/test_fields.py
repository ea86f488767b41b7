"""The four kinds of fields, and what becomes of an unknown one."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import BadRequestError, OpenAI

from router.api.chat import ChatRequest
from router.api.fields import UNSUPPORTED
from tests.integration.contract.asking import ask, stream, text_of, user
from tests.integration.contract.media import data_uri
from tests.integration.either.questions import GREETING, HELLO
from tests.integration.seeing.pictures import IMAGE
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
    completion = {"model": "demo", "prompt": f"<|im_start|>user\n{HELLO}<|im_end|>\n<|im_start|>assistant\n"}
    asked = {name: NOTHING[name] for name in ("user",)}
    extra = {name: value for name, value in NOTHING.items() if name not in asked}
    assert carol.completions.create(**completion, **asked, temperature=0, max_tokens=30, extra_body=extra).choices  # type: ignore[call-overload]
    assert carol.responses.create(model="demo", input=HELLO, temperature=0, **NOTHING).output_text == GREETING


def test_null_is_not_given(carol: OpenAI) -> None:
    """Anywhere, at a strict router, too."""
    nothing = dict.fromkeys(("stop", "logprobs", "tools", "tool_choice", "seed", "n", "max_tokens", "response_format"))
    part = {"type": "image_url", "image_url": {"url": data_uri(IMAGE), "detail": None}, "uuid": None}
    function = {"name": "f", "description": None, "parameters": None, "strict": None}
    messages = [
        {"role": "system", "content": "Hm.", "name": None},
        {"role": "user", "content": [part]},
        {
            "role": "assistant",
            "content": "Yes.",
            "tool_calls": None,
            "refusal": None,
            "audio": None,
            "function_call": None,
        },
        {"role": "user", "content": HELLO, "name": None},
    ]
    tools = [{"type": "function", "function": function}]
    assert text_of(ask(carol, HELLO, temperature=0, **nothing)) == GREETING
    assert ask(carol, messages=messages, tools=tools, max_tokens=2).choices
    chunks = stream(carol, HELLO, temperature=0, stream_options={"include_usage": None})
    assert {chunk.usage for chunk in chunks} == {None}
    extra = dict.fromkeys(("instructions", "text", "reasoning", "tools", "metadata", "previous_response_id", "include"))
    assert carol.responses.create(model="demo", input=HELLO, temperature=0, extra_body=extra).output_text == GREETING
    extra = dict.fromkeys(("suffix", "echo", "best_of", "logprobs", "stop", "n", "max_tokens"))
    assert carol.completions.create(model="demo", prompt=HELLO, extra_body=extra).choices


def test_every_field_that_is_known_and_not_honoured(client: OpenAI, carol: OpenAI) -> None:
    """A 400 that names it, unless its value asks for nothing."""
    for field in UNSUPPORTED.keys() - ChatRequest.model_fields.keys():
        with pytest.raises(BadRequestError) as caught:
            ask(client, HELLO, max_tokens=1, extra_body={field: {"something": "else"}})
        assert caught.value.param == field
        for value in UNSUPPORTED[field]:
            ask(carol, HELLO, max_tokens=1, extra_body={field: value})


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
    odd = {"extra_body": {"zebra": 1}}
    chunks = client.chat.completions.with_raw_response.create(
        model="demo",
        messages=user(HELLO),
        max_tokens=1,
        stream=True,
        **odd,  # type: ignore[call-overload]
    )
    assert list(chunks.parse())
    completion = client.completions.with_raw_response.create(model="demo", prompt=HELLO, max_tokens=1, **odd)  # type: ignore[call-overload]
    response = client.responses.with_raw_response.create(model="demo", input=HELLO, max_output_tokens=1, **odd)  # type: ignore[call-overload]
    assert {answer.headers["x-ignored-fields"] for answer in (chunks, completion, response)} == {"zebra"}


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
