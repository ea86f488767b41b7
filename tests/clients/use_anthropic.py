"""Anthropic's client, over /v1/messages."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from anthropic import Anthropic
from pydantic import BaseModel

from tests.clients import steps

TOOL = {"name": steps.TOOL_NAME, "description": steps.TOOL_DESCRIPTION, "input_schema": steps.TOOL_PARAMETERS}


class Box(BaseModel):
    bbox_2d: list[int]


def client(scenario: SimpleNamespace) -> Anthropic:
    return Anthropic(base_url=scenario.url, api_key=scenario.key, max_retries=0)


def with_image(scenario: SimpleNamespace, question: str) -> list[dict[str, Any]]:
    source = {"type": "base64", "media_type": "image/png", "data": steps.image_base64(scenario)}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


def image(scenario: SimpleNamespace) -> None:
    messages = with_image(scenario, scenario.describe)
    anthropic = client(scenario)
    answer = anthropic.messages.create(model=scenario.model, max_tokens=100, messages=messages)
    steps.check("the answer", [block.text for block in answer.content], [scenario.description])
    steps.check("the reason", answer.stop_reason, "end_turn")
    count = anthropic.messages.count_tokens(model=scenario.model, messages=messages)
    usage = answer.usage  # what was cached by an earlier client is counted apart
    steps.check("the count", count.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens or 0))


def tool(scenario: SimpleNamespace) -> None:
    given: dict[str, Any] = {"model": scenario.model, "max_tokens": 100, "tools": [TOOL]}
    messages: list[Any] = [{"role": "user", "content": scenario.weather}]
    calling = client(scenario).messages.create(**given, messages=messages)
    steps.check("the reason", calling.stop_reason, "tool_use")
    (call,) = (block for block in calling.content if block.type == "tool_use")
    steps.check("the call", (call.name, call.input), (steps.TOOL_NAME, {"city": scenario.city}))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": scenario.report}
    messages += [{"role": "assistant", "content": calling.content}, {"role": "user", "content": [result]}]
    answer = client(scenario).messages.create(**given, messages=messages)
    steps.check("the answer", "".join(block.text for block in answer.content), scenario.forecast)


def structured(scenario: SimpleNamespace) -> None:
    answer = client(scenario).messages.parse(
        model=scenario.model, max_tokens=100, messages=with_image(scenario, scenario.locate), output_format=Box
    )
    assert answer.parsed_output is not None
    steps.check_box(scenario, answer.parsed_output.bbox_2d)


def stream(scenario: SimpleNamespace) -> None:
    messages: list[Any] = [{"role": "user", "content": scenario.recite}]
    with client(scenario).messages.stream(model=scenario.model, max_tokens=100, messages=messages) as events:
        steps.check_stream(scenario, list(events.text_stream))
        assert events.get_final_message().usage.output_tokens > 0


def streamed_tool(scenario: SimpleNamespace) -> None:
    messages: list[Any] = [{"role": "user", "content": scenario.weather}]
    with client(scenario).messages.stream(
        model=scenario.model, max_tokens=100, tools=[TOOL], messages=messages
    ) as events:
        message = events.get_final_message()
    (call,) = (block for block in message.content if block.type == "tool_use")
    steps.check("the call", (call.name, call.input), (steps.TOOL_NAME, {"city": scenario.city}))


if __name__ == "__main__":
    sys.exit(steps.main(image, tool, structured, stream, streamed_tool))
