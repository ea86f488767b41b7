"""What the official client makes of an answer comes back in the next request: nothing of it is a field that the strict
router does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import Response
from pydantic import BaseModel

from tests.integration.contract.asking import ask, client_of, text_of, user
from tests.integration.contract.conftest import KEYS, playing
from tests.integration.contract.script import CITY, FORECAST, GREETING


class City(BaseModel):
    name: str
    people: int
    rivers: list[str]


class Weather(BaseModel):
    city: str
    days: int


CHAT_TOOL = openai.pydantic_function_tool(Weather, name="get_weather")
TOOL: dict[str, Any] = {"type": "function", **CHAT_TOOL["function"]}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Of a router that refuses unknown fields."""
    folder = tmp_path_factory.mktemp("strict")
    with playing(folder, strict_fields=True) as served, client_of(served, KEYS[0]) as client:
        yield client


def created(client: OpenAI, question: str, **fields: Any) -> ChatCompletionMessage:
    return ask(client, question, **fields).choices[0].message


def parsed(client: OpenAI, question: str, **fields: Any) -> ChatCompletionMessage:
    return client.chat.completions.parse(model="demo", messages=user(question), **fields).choices[0].message


def streamed(client: OpenAI, question: str, **fields: Any) -> ChatCompletionMessage:
    with client.chat.completions.stream(model="demo", messages=user(question), **fields) as events:
        return events.get_final_completion().choices[0].message


@pytest.mark.parametrize("make", [created, parsed, streamed])
def test_messages_come_back(strict: OpenAI, make: Any) -> None:
    said = make(strict, "Riddle me this.")
    called = make(strict, "Weather in two places?", tools=[CHAT_TOOL])
    results = [{"role": "tool", "tool_call_id": call.id, "content": "twelve degrees"} for call in called.tool_calls]
    for form in (said, said.model_dump(), said.to_dict()):
        assert text_of(ask(strict, messages=[*user("Riddle me this."), form, *user("Greet me.")])) == GREETING
    for form in (called, called.model_dump(), called.to_dict()):
        messages = [*user("Weather in two places?"), form, *results]
        assert text_of(ask(strict, messages=messages, tools=[CHAT_TOOL])) == FORECAST


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's types do not expect a City
@pytest.mark.parametrize("make", [parsed, streamed])
def test_structured_answers_come_back(strict: OpenAI, make: Any) -> None:
    city = make(strict, "Describe a city.", response_format=City)
    assert city.parsed == City(**CITY)
    for form in (city, city.model_dump(), city.to_dict()):
        assert text_of(ask(strict, messages=[*user("Describe a city."), form, *user("Greet me.")])) == GREETING


def respond(client: OpenAI, question: str, **fields: Any) -> Response:
    return client.responses.create(model="demo", input=question, **fields)


def parse_response(client: OpenAI, question: str, **fields: Any) -> Response:
    return client.responses.parse(model="demo", input=question, **fields)


def stream_response(client: OpenAI, question: str, **fields: Any) -> Response:
    with client.responses.stream(model="demo", input=question, **fields) as events:
        return events.get_final_response()


@pytest.mark.parametrize("make", [respond, parse_response, stream_response])
def test_items_come_back(strict: OpenAI, make: Any) -> None:
    fields = {} if make is respond else {"text_format": City}
    for question, more, after, answer in (
        ("Riddle me this.", {}, user("Greet me."), GREETING),
        ("Describe a city.", fields, user("Greet me."), GREETING),
        ("Weather?", {"tools": [TOOL]}, [], FORECAST),
    ):
        output = make(strict, question, **more).output
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "twelve degrees"}
            for item in output
            if item.type == "function_call"
        ]
        for form in (output, [item.model_dump() for item in output], [item.to_dict() for item in output]):
            items: Any = [*user(question), *form, *results, *after]
            assert strict.responses.create(model="demo", input=items).output_text == answer


def test_a_refusal_is_what_the_assistant_said(strict: OpenAI) -> None:
    """The prompt is as long as if it had been the content."""
    counts = []
    for said in (
        {"content": None, "refusal": "Greet yourself."},
        {"refusal": "Greet yourself."},
        {"content": "Greet yourself.", "refusal": None},
        {"content": "Greet ", "refusal": "yourself."},
        {"content": [{"type": "refusal", "refusal": "Greet yourself."}], "refusal": ""},
    ):
        answer = ask(strict, messages=[*user("x"), {"role": "assistant", **said}, *user("y")])
        assert text_of(answer) == GREETING
        counts.append(answer.usage.prompt_tokens)  # type: ignore[union-attr]
    assert len(set(counts)) == 1
