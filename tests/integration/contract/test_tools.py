"""Tools: what is called, how it is streamed, and what comes back. Their grammars are shown in router/test_tools.py."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.integration.contract.asking import ask, stream, streamed_text, strict, text_of, user
from tests.integration.contract.media import image_part, png
from tests.integration.contract.script import ARGUMENTS, CALL, FORECAST

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {}}}


def allowing(mode: str, *tools: str) -> dict[str, Any]:
    named = [{"type": "function", "function": {"name": tool}} for tool in tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


def test_a_call_and_its_result(client: OpenAI) -> None:
    answer = ask(client, "Weather?", tools=[TOOL])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
    for result in ("twelve degrees", [{"type": "text", "text": "twelve degrees"}, image_part(png(64, 64))]):
        messages = [*user("Weather?"), choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
        after = ask(client, messages=messages, tools=[TOOL])
        assert text_of(after) == FORECAST
        assert after.choices[0].finish_reason == "stop"


def test_several_calls(client: OpenAI) -> None:
    (choice,) = ask(client, "Weather in two places?", tools=[TOOL]).choices
    calls = choice.message.tool_calls or []
    assert choice.message.content == "Let me look."
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Köln", "Bonn"]  # type: ignore[union-attr]
    assert len({call.id for call in calls}) == 2
    (one,) = ask(client, "Weather in two places?", tools=[TOOL], parallel_tool_calls=False).choices
    assert len(one.message.tool_calls or []) == 1


def calls_of(chunks: list[ChatCompletionChunk]) -> list[dict[str, str]]:
    calls: list[dict[str, str]] = []
    for chunk in chunks:
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.function is not None
            if piece.id is not None:
                assert (piece.index, piece.type) == (len(calls), "function")
                calls.append({"id": piece.id, "name": piece.function.name or "", "arguments": ""})
            calls[piece.index]["arguments"] += piece.function.arguments or ""
    return calls


def test_streamed_calls(client: OpenAI) -> None:
    chunks = stream(client, "Weather in two places?", tools=[TOOL])
    calls = calls_of(chunks)
    assert streamed_text(chunks) == "Let me look."
    assert [(call["name"], json.loads(call["arguments"])["city"]) for call in calls] == [
        ("get_weather", "Köln"),
        ("get_weather", "Bonn"),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    pieces = [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert len(pieces) > 4, "arguments come as they are written"
    assert len(calls_of(stream(client, "Weather in two places?", tools=[TOOL], parallel_tool_calls=False))) == 1


@pytest.mark.parametrize(("choice", "reason"), [("auto", "tool_calls"), ("required", "tool_calls"), (NAMED, "stop")])
def test_choices_that_call(client: OpenAI, choice: Any, reason: str) -> None:
    (answer,) = ask(client, "Weather?", tools=[TOOL], tool_choice=choice).choices
    assert len(answer.message.tool_calls or []) == 1
    assert answer.finish_reason == reason
    chunks = stream(client, "Weather?", tools=[TOOL], tool_choice=choice)
    assert calls_of(chunks)[0]["arguments"] == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == reason


def test_some_of_the_tools(client: OpenAI) -> None:
    """Those that may not be called are not in the prompt."""
    alone = ask(client, "Weather?", tools=[TOOL])
    for mode in ("auto", "required"):
        answer = ask(client, "Weather?", tools=[OTHER, TOOL], tool_choice=allowing(mode, "get_weather"))
        assert len(answer.choices[0].message.tool_calls or []) == 1
        assert answer.usage.prompt_tokens == alone.usage.prompt_tokens  # type: ignore[union-attr]
    bad = {**TOOL["function"], "parameters": {"type": "thing"}, "strict": True}  # type: ignore[dict-item]
    tools = [OTHER, {"type": "function", "function": bad}]
    with pytest.raises(BadRequestError) as caught:
        ask(client, "Weather?", tools=tools, tool_choice=allowing("auto", "get_weather"))
    assert caught.value.param == "tools[1].function.parameters"


def test_without_tools_a_call_is_text(client: OpenAI) -> None:
    for fields in ({}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": []}):
        (choice,) = ask(client, "Weather?", **fields).choices
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (CALL, None, "stop")


def test_the_clients_own_parsing(client: OpenAI) -> None:
    class Weather(BaseModel):
        city: str
        days: int

    tool = openai.pydantic_function_tool(Weather, name="get_weather")
    assert tool["function"]["strict"]
    answer = client.chat.completions.parse(model="demo", messages=user("Weather?"), tools=[tool])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Köln", days=2)
    with client.chat.completions.stream(model="demo", messages=user("Weather?"), tools=[tool]) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        final = strict(events.current_completion_snapshot)
    assert [event.parsed_arguments for event in done] == [Weather(city="Köln", days=2)]
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": allowing("auto", "other")}, "tool_choice.allowed_tools.tools[0]"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"functions": [TOOL["function"]]}, "functions"),
    ],
)
def test_what_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "Weather?", **fields)
    assert caught.value.param == param
