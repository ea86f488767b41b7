"""Calls, their results in the next turn, and structured answers. The model has learnt one call a turn and nothing of
results: what it says about these is only asked to be an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from deploy.demo.scenes.scoring import iou
from deploy.demo.scenes.talk import WEATHER
from tests.integration.contract.asking import ask, stream, strict, text_of, user
from tests.integration.contract.media import data_uri
from tests.integration.seeing.pictures import CIRCLE, IMAGE, PICTURE, seen

QUESTION = "What is the weather in Paris?"
TOOLS = [WEATHER.schema()]
PARAMETERS: dict[str, Any] = TOOLS[0]["function"]["parameters"]
PLACE = "Where is the red circle?"
BOX = CIRCLE.box(PICTURE.width, PICTURE.height)
BOX_SCHEMA = {
    "type": "object",
    "properties": {"bbox_2d": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}},
    "required": ["bbox_2d"],
    "additionalProperties": False,
}


def test_several_calls_and_their_results(client: OpenAI) -> None:
    """Who has to call, and may not end yet, calls again."""
    strictly = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    fields: dict[str, Any] = {"tools": strictly, "tool_choice": "required", "temperature": 0, "max_tokens": 200}
    (choice,) = ask(client, QUESTION, **fields, extra_body={"min_tokens": 40}).choices
    calls = choice.message.tool_calls or []
    assert len(calls) > 1
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}  # type: ignore[union-attr]
    for call in calls[:-1]:
        assert json.loads(call.function.arguments).keys() == {"city"}  # type: ignore[union-attr]
    (one,) = ask(client, QUESTION, **fields, parallel_tool_calls=False, extra_body={"min_tokens": 40}).choices
    assert (len(one.message.tool_calls or []), one.finish_reason) == (1, "tool_calls")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "It rains."} for call in calls]
    messages = [*user(QUESTION), choice.message, *results]
    after = ask(client, messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=30)
    assert text_of(after)
    assert not after.choices[0].message.tool_calls
    chunks = stream(client, messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=30)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text_of(after)


def test_a_strict_tool_is_held_to_its_schema(client: OpenAI) -> None:
    """Also where the model itself has decided to call."""
    cities = {"city": {"enum": ["Rome", "Oslo"]}}
    function = {**TOOLS[0]["function"], "parameters": {**PARAMETERS, "properties": cities}}
    for is_strict in (False, True):
        tools = [{"type": "function", "function": {**function, "strict": is_strict}}]
        (call,) = ask(client, QUESTION, tools=tools, temperature=0).choices[0].message.tool_calls or []
        city = json.loads(call.function.arguments)["city"]  # type: ignore[union-attr]
        assert city in (("Rome", "Oslo") if is_strict else ("Paris",))


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_of_the_tools(client: OpenAI, mode: str) -> None:
    other = {"type": "function", "function": {"name": "get_time", "parameters": PARAMETERS}}
    named = [{"type": "function", "function": {"name": WEATHER.name}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    answer = ask(client, QUESTION, tools=[other, *TOOLS], tool_choice=choice, temperature=0)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.name == WEATHER.name  # type: ignore[union-attr]


def test_responses(client: OpenAI) -> None:
    tool = {"type": "function", **TOOLS[0]["function"], "strict": True}
    fields: dict[str, Any] = {"model": "demo", "temperature": 0, "tools": [tool]}
    for choice in ("auto", {"type": "function", "name": WEATHER.name}):
        called = strict(client.responses.create(input=QUESTION, tool_choice=choice, **fields))
        (call,) = called.output
        assert (call.type, json.loads(call.arguments)) == ("function_call", {"city": "Paris"})  # type: ignore[union-attr]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}  # type: ignore[union-attr]
    items: Any = [{"role": "user", "content": QUESTION}, *called.output, result]
    assert strict(client.responses.create(input=items, tool_choice="none", max_output_tokens=30, **fields)).output_text
    content = [
        {"type": "input_image", "image_url": data_uri(IMAGE)},
        {"type": "input_text", "text": PLACE},
    ]
    text = {"format": {"type": "json_schema", "name": "place", "schema": BOX_SCHEMA, "strict": True}}
    seeing: Any = {"model": "demo", "input": [{"role": "user", "content": content}], "text": text, "temperature": 0}
    assert iou(json.loads(strict(client.responses.create(**seeing)).output_text)["bbox_2d"], BOX) > 0.7
    with_tools = strict(client.responses.create(**seeing, tools=[tool]))
    assert len(json.loads(with_tools.output_text)["bbox_2d"]) == 4


def test_messages(claude: Anthropic) -> None:
    tool: Any = {"name": WEATHER.name, "description": WEATHER.description, "input_schema": PARAMETERS}
    fields: dict[str, Any] = {"model": "demo", "max_tokens": 60, "extra_body": {"temperature": 0}}
    asked = [{"role": "user", "content": QUESTION}]
    for choice in ("auto", "any"):
        called = strict(claude.messages.create(messages=asked, tools=[tool], tool_choice={"type": choice}, **fields))
        (call,) = called.content
        assert (called.stop_reason, call.type, call.input) == ("tool_use", "tool_use", {"city": "Paris"})  # type: ignore[union-attr]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}  # type: ignore[union-attr]
    turns = [*asked, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    after = strict(claude.messages.create(messages=turns, tools=[tool], tool_choice={"type": "none"}, **fields))
    assert [block.type for block in after.content] == ["text"]
    assert after.content[0].text  # type: ignore[union-attr]
    source = {"type": "url", "url": data_uri(IMAGE)}
    where = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": PLACE}]}]
    config = {"format": {"type": "json_schema", "schema": BOX_SCHEMA}}
    answer = strict(claude.messages.create(messages=where, output_config=config, **fields))
    assert iou(json.loads(answer.content[0].text)["bbox_2d"], BOX) > 0.7  # type: ignore[union-attr]


def place(client: OpenAI, wanted: dict[str, Any]) -> str:
    tags = {"type": "structural_tag", **wanted}
    return text_of(ask(client, seen(PLACE, PICTURE), temperature=0, max_tokens=60, response_format=tags)) or ""


TAG = {"type": "tag", "begin": "<box>", "content": {"type": "json_schema", "json_schema": BOX_SCHEMA}, "end": "</box>"}


@pytest.mark.parametrize(
    ("wanted", "intro"),
    [
        ({"format": TAG}, ""),
        ({"format": {"type": "sequence", "elements": [{"type": "const_string", "value": "Here: "}, TAG]}}, "Here: "),
        ({"format": {"type": "tags_with_separator", "tags": [TAG], "separator": ",", "at_least_one": True}}, ""),
    ],
)
def test_structural_tags(client: OpenAI, wanted: dict[str, Any], intro: str) -> None:
    answer = place(client, wanted)
    assert answer.startswith(f"{intro}<box>")
    assert len(json.loads(answer.removeprefix(f"{intro}<box>").partition("</box>")[0])["bbox_2d"]) == 4


def test_tags_that_may_be_written(client: OpenAI) -> None:
    """The model knows of none, so it answers as ever."""
    for wanted in (
        {"structures": [{"begin": "<box>", "schema": BOX_SCHEMA, "end": "</box>"}], "triggers": ["<box>"]},
        {"format": {"type": "triggered_tags", "triggers": ["<box>"], "tags": [TAG]}},
    ):
        assert iou(json.loads(place(client, wanted))["bbox_2d"], BOX) > 0.7
