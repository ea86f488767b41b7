"""LiteLLM, with the provider `openai`, and its own translation of Anthropic's API."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices

import litellm
from pydantic import BaseModel

from tests.clients import steps


class Box(BaseModel):
    bbox_2d: list[int]


def ask(scenario: SimpleNamespace, messages: list[Any], **fields: Any) -> Any:
    return litellm.completion(
        model=f"openai/{scenario.model}",
        api_base=f"{scenario.url}/v1",
        api_key=scenario.key,
        messages=messages,
        **fields,
    )


def image(scenario: SimpleNamespace) -> None:
    answer = ask(scenario, steps.question_with_image(scenario, scenario.describe))
    steps.check("the answer", answer.choices[0].message.content, scenario.description)
    assert answer.usage.completion_tokens > 0


def tool(scenario: SimpleNamespace) -> None:
    messages: list[Any] = [{"role": "user", "content": scenario.weather}]
    calling = ask(scenario, messages, tools=[steps.TOOL]).choices[0].message
    (call,) = calling.tool_calls
    arguments = json.loads(call.function.arguments)
    steps.check("the call", (call.function.name, arguments), (steps.TOOL_NAME, {"city": scenario.city}))
    messages += [calling, {"role": "tool", "tool_call_id": call.id, "content": scenario.report}]
    answer = ask(scenario, messages, tools=[steps.TOOL])
    steps.check("the answer", answer.choices[0].message.content, scenario.forecast)


def structured(scenario: SimpleNamespace) -> None:
    answer = ask(scenario, steps.question_with_image(scenario, scenario.locate), response_format=Box)
    steps.check_box(scenario, Box.model_validate_json(answer.choices[0].message.content).bbox_2d)


def stream(scenario: SimpleNamespace) -> None:
    messages = [{"role": "user", "content": scenario.recite}]
    chunks = list(ask(scenario, messages, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    steps.check_stream(scenario, [delta for delta in deltas if delta])
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens > 0


if __name__ == "__main__":
    sys.exit(steps.main(image, tool, structured, stream))
