"""What is forced: answers of a form, calls and their results, of a model that would write neither by itself."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, OpenAI

from deploy.demo.scenes.talk import WEATHER
from tests.integration.contract.asking import ask, stream, streamed_text, strict, text_of, user
from tests.integration.contract.media import data_uri
from tests.integration.either.questions import (
    COLOUR,
    FORM,
    FORM_TEXT,
    HELLO,
    RED,
    TOOLED,
    WEATHER_QUESTION,
)
from tests.integration.seeing.pictures import IMAGE, PICTURE, seen

TOOL: dict[str, Any] = WEATHER.schema()
NAMED = {"type": "function", "function": {"name": WEATHER.name}}
TOOL["function"]["parameters"]["properties"]["city"] = {"type": "string", "enum": ["Paris"]}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": 1}},
    "required": ["a"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # else a model that knows nothing of it may write spaces for ever
}


def test_regular_expressions(client: OpenAI) -> None:
    pattern = r"It is [a-z]+\."
    for extra in ({"guided_regex": pattern}, {"structured_outputs": {"regex": pattern}}):
        assert text_of(ask(client, seen(COLOUR, PICTURE), temperature=0, extra_body=extra)) == RED
    with pytest.raises(BadRequestError) as caught:
        ask(client, HELLO, extra_body={"guided_regex": "("})
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"guided_regex": r'\{"a": 1\}'}},
        {"extra_body": {"guided_choice": [FORM_TEXT]}},
        {"extra_body": {"guided_grammar": r'start: "{" "\"a\"" ": 1}"'}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
        {"extra_body": {"structured_outputs": {"regex": r'\{"a": 1\}'}}},
        {"extra_body": {"structured_outputs": {"grammar": r'root ::= "{" "\"a\"" ": 1}"'}}},
    ],
)
def test_forms(client: OpenAI, fields: dict[str, Any]) -> None:
    """That no model would write by itself: its grammar makes it."""
    fields = {"temperature": 0, "max_tokens": 60, **fields}
    assert json.loads(text_of(ask(client, FORM, **fields)) or "") == {"a": 1}
    assert json.loads(streamed_text(stream(client, FORM, **fields))) == {"a": 1}


def test_forms_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    answer = client.responses.create(model="demo", input=FORM, text=text, temperature=0)
    assert json.loads(strict(answer).output_text) == {"a": 1}
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    messages: Any = user(FORM)
    message = claude.messages.create(model="demo", max_tokens=60, messages=messages, output_config=config)
    assert json.loads(strict(message).content[0].text) == {"a": 1}  # type: ignore[union-attr]


def test_what_a_strict_schema_may_not_have(client: OpenAI) -> None:
    """It is left out of one that is not strict."""
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    wanted: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert ask(client, FORM, max_tokens=2, response_format=wanted).choices
    wanted["json_schema"]["strict"] = True
    with pytest.raises(BadRequestError) as caught:
        ask(client, FORM, response_format=wanted)
    assert (caught.value.param or "").startswith("response_format.json_schema")


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_calls_that_are_asked_for(client: OpenAI, choice: Any, reason: str) -> None:
    """Of a model that would not call by itself; its arguments come in pieces."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 200, "tools": [TOOL], "tool_choice": choice}
    fields["parallel_tool_calls"] = False
    (answer,) = ask(client, TOOLED, **fields).choices
    (call,) = answer.message.tool_calls or []
    assert call.function.name == WEATHER.name  # type: ignore[union-attr]
    assert json.loads(call.function.arguments) == {"city": "Paris"}  # type: ignore[union-attr]
    assert answer.finish_reason == reason
    pieces = [
        piece.function.arguments
        for chunk in stream(client, TOOLED, **fields)
        for piece in chunk.choices[0].delta.tool_calls or []
        if piece.function is not None and piece.function.arguments
    ]
    assert "".join(pieces) == call.function.arguments  # type: ignore[union-attr]
    assert len(pieces) > 1


def test_calls_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    fields: dict[str, Any] = {"model": "demo", "input": TOOLED, "temperature": 0, "parallel_tool_calls": False}
    tool = {"type": "function", **TOOL["function"]}
    for choice in ("required", {"type": "function", "name": WEATHER.name}):
        with client.responses.stream(**fields, tools=[tool], tool_choice=choice) as events:  # type: ignore[arg-type]
            pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
            (call,) = events.get_final_response().output
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"city": "Paris"}
        assert "".join(pieces) == call.arguments
        assert len(pieces) > 1
    claudes: Any = {"name": WEATHER.name, "input_schema": TOOL["function"]["parameters"]}
    for wanted in ({"type": "any"}, {"type": "tool", "name": WEATHER.name}):
        fields = {"model": "demo", "max_tokens": 200, "messages": user(TOOLED), "extra_body": {"temperature": 0}}
        fields["tool_choice"] = {**wanted, "disable_parallel_tool_use": True}
        with claude.messages.stream(**fields, tools=[claudes]) as stream_:
            inputs = [event.partial_json for event in stream_ if event.type == "input_json"]
            (block,) = stream_.get_final_message().content
        assert (block.type, block.input) == ("tool_use", {"city": "Paris"})  # type: ignore[union-attr]
        assert len(inputs) > 1


def test_results_with_images_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    tool: Any = {"type": "function", **TOOL["function"]}
    asked: Any = {"role": "user", "content": WEATHER_QUESTION}
    call: Any = {"type": "function_call", "call_id": "c", "name": WEATHER.name, "arguments": '{"city": "Paris"}'}
    image: Any = {"type": "input_image", "image_url": data_uri(IMAGE)}
    result: Any = {"type": "function_call_output", "call_id": "c", "output": [image]}
    fields: dict[str, Any] = {"model": "demo", "temperature": 0, "tools": [tool], "max_output_tokens": 20}
    answer = strict(client.responses.create(input=[asked, call, result], **fields))
    assert answer.usage.input_tokens_details.image_tokens == 64  # type: ignore[union-attr]
    used: Any = {"type": "tool_use", "id": "c", "name": WEATHER.name, "input": {"city": "Paris"}}
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(IMAGE).decode()}
    text = {"type": "text", "text": "This is the sky."}
    back: Any = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image", "source": source}, text]}
    turns: Any = [asked, {"role": "assistant", "content": [used]}, {"role": "user", "content": [back]}]
    claudes: Any = [{"name": WEATHER.name, "input_schema": TOOL["function"]["parameters"]}]
    counted = claude.messages.count_tokens(model="demo", messages=turns, tools=claudes)
    back["content"] = [text]
    without = claude.messages.count_tokens(model="demo", messages=turns, tools=claudes)
    assert counted.input_tokens - without.input_tokens == 64 + 2, "and its begin and end"


def test_results_with_images(client: OpenAI) -> None:
    tools = [WEATHER.schema()]
    answer = ask(client, WEATHER_QUESTION, tools=tools, temperature=0)
    (call,) = answer.choices[0].message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": seen("This is the sky.", PICTURE)}
    messages = [*user(WEATHER_QUESTION), answer.choices[0].message, result]
    after = ask(client, messages=messages, tools=tools, temperature=0, max_tokens=20)
    assert text_of(after)
    assert after.usage.prompt_tokens_details.image_tokens == 64  # type: ignore[union-attr]
