"""Responses through real processes. The corners are shown in router/test_responses.py, with the same client."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from tests.integration.contract.asking import strict
from tests.integration.contract.media import data_uri, png
from tests.integration.contract.script import CITY, FORECAST, GREETING, SOLUTION, SPLIT, THOUGHT

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def respond(client: OpenAI, given: Any = "Greet me.", **fields: Any) -> Response:
    """Whole and as a stream, every event of which has to be what its type says."""
    whole = strict(client.responses.create(model="demo", input=given, **fields))
    with client.responses.create(model="demo", input=given, stream=True, **fields) as events:
        told = [strict(event) for event in events]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    last = told[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.usage == whole.usage  # type: ignore[union-attr]
    assert last.response.output_text == whole.output_text  # type: ignore[union-attr]
    return whole


def test_text(client: OpenAI) -> None:
    answer = respond(client, instructions="Be brief.", temperature=0.5, top_p=0.5, metadata={"a": "b"}, user="me")
    assert (answer.output_text, answer.status) == (GREETING, "completed")
    assert (answer.instructions, answer.temperature, answer.top_p) == ("Be brief.", 0.5, 0.5)
    assert (answer.metadata, answer.user, answer.store) == ({"a": "b"}, "me", False)  # type: ignore[attr-defined]
    short = respond(client, max_output_tokens=2)
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


def test_an_image(client: OpenAI) -> None:
    picture = {"type": "input_image", "image_url": data_uri(png(128, 128, 9)), "detail": "low"}
    answer = respond(client, [{"role": "user", "content": [{"type": "input_text", "text": "What?"}, picture]}])
    assert "1 image of 16 visual tokens" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 16  # type: ignore[attr-defined]


def test_a_call_and_its_result(client: OpenAI) -> None:
    asked = [{"role": "user", "content": "Weather?"}]
    for choice in ("auto", "required", {"type": "function", "name": "get_weather"}):
        answer = respond(client, asked, tools=[TOOL], tool_choice=choice)
        (call,) = answer.output
        assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "twelve degrees"}  # type: ignore[union-attr]
    answer = respond(client, [*asked, call.to_dict(), result], tools=[TOOL])
    assert answer.output_text == FORECAST


def test_reasoning(client: OpenAI) -> None:
    answer = respond(client, "Riddle me this.", reasoning={"effort": "low"})
    reasoning, _ = answer.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert (reasoning.content[0].text, answer.output_text) == (THOUGHT, SOLUTION)
    summed = respond(client, "Riddle me this.", reasoning={"summary": "auto"}).output[0]
    assert summed.type == "reasoning"
    assert summed.summary[0].text == THOUGHT


def test_structured(client: OpenAI) -> None:
    class City(BaseModel):
        name: str
        people: int
        rivers: list[str]

    answer = client.responses.parse(model="demo", input="Describe a city.", text_format=City)
    assert answer.output_parsed == City(**CITY)


def test_what_is_shown_again(client: OpenAI) -> None:
    given = {"max_tool_calls": 3, "prompt_cache_key": "k", "safety_identifier": "s", "truncation": "disabled"}
    answer = respond(client, **given)
    assert {name: getattr(answer, name) for name in given} == given


def test_options_of_the_other_apis(client: OpenAI) -> None:
    shown = respond(client, "Mark it.", extra_body={"skip_special_tokens": False})
    assert shown.output_text == "one<|im_start|> two"
    stopped = respond(client, "Count.", extra_body={"stop": "o thr", "include_stop_str_in_output": True})
    assert stopped.output_text == "one two thr"
    called = respond(client, "Weather in two places?", tools=[TOOL], parallel_tool_calls=False)
    assert [item.type for item in called.output] == ["message", "function_call"]
    old = respond(client, "Riddle me this.", reasoning={"generate_summary": "auto"}).output[0]
    assert old.type == "reasoning"
    assert old.summary[0].text == THOUGHT


def test_logprobs(client: OpenAI) -> None:
    for fields, count in (({"include": ["message.output_text.logprobs"]}, 0), ({"top_logprobs": 2}, 2)):
        (message,) = respond(client, "Spell it.", **fields).output
        part = message.content[0]  # type: ignore[union-attr]
        assert b"".join(bytes(entry.bytes) for entry in part.logprobs).decode() == SPLIT  # type: ignore[union-attr]
        assert {len(entry.top_logprobs) for entry in part.logprobs} == {count}  # type: ignore[union-attr]


def test_what_is_refused(client: OpenAI) -> None:
    for fields, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ):
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(**{"model": "demo", "input": "Greet me.", **fields})  # type: ignore[call-overload]
        assert caught.value.param == param
    with pytest.raises(NotFoundError):
        client.responses.retrieve("resp_1")
