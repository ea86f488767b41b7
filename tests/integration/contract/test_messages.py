"""Messages through real processes. The corners are shown in router/test_messages.py, with the same client."""

from __future__ import annotations

import base64
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import Message

from tests.integration.contract.asking import strict
from tests.integration.contract.conftest import KEYS
from tests.integration.contract.media import png
from tests.integration.contract.script import ARGUMENTS, FORECAST, GREETING, SOLUTION, THOUGHT, WORDS
from tests.serving import Served

TOOL = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def say(claude: Anthropic, content: Any = "Greet me.", **fields: Any) -> Message:
    """Whole and as a stream, every event of which has to be what its type says."""
    fields = {"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": content}], **fields}
    whole = strict(claude.messages.create(**fields))
    with claude.messages.create(**fields, stream=True) as events:
        told = [strict(event) for event in events]
    assert (told[0].type, told[-1].type) == ("message_start", "message_stop")
    with claude.messages.stream(**fields) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)
    assert [shown(block) for block in final.content] == [shown(block) for block in whole.content]
    return whole


def shown(block: Any) -> dict[str, Any]:
    """What is in a block, but for the id of a call."""
    return {name: value for name, value in block.to_dict().items() if name != "id"}


def test_text(claude: Anthropic) -> None:
    answer = say(claude, system="Be brief.", metadata={"user_id": "me"}, extra_body={"temperature": 0.5})
    (block,) = answer.content
    assert (block.type, block.text, answer.stop_reason) == ("text", GREETING, "end_turn")  # type: ignore[union-attr]
    assert say(claude, max_tokens=2).stop_reason == "max_tokens"
    stopped = say(claude, "Count.", stop_sequences=["o thr"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "o thr")
    assert WORDS.startswith(stopped.content[0].text)  # type: ignore[union-attr]


def test_an_image(claude: Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(128, 128, 9)).decode()}
    content = [{"type": "text", "text": "What?"}, {"type": "image", "source": source}]
    answer = say(claude, content)
    assert "1 image of 16 visual tokens" in answer.content[0].text  # type: ignore[union-attr]
    messages = [{"role": "user", "content": content}]
    counted = strict(claude.messages.count_tokens(model="demo", messages=messages))  # type: ignore[arg-type]
    assert counted.input_tokens == answer.usage.input_tokens


def test_a_call_and_its_result(claude: Anthropic) -> None:
    for choice in ("auto", "any"):
        answer = say(claude, "Weather?", tools=[TOOL], tool_choice={"type": choice})
        (call,) = answer.content
        assert (call.type, answer.stop_reason) == ("tool_use", "tool_use")
    assert call.input == {"city": "Köln", "days": 2}, ARGUMENTS  # type: ignore[union-attr]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "twelve degrees"}  # type: ignore[union-attr]
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [call.to_dict()]},
        {"role": "user", "content": [result]},
    ]
    assert say(claude, messages=messages, tools=[TOOL]).content[0].text == FORECAST  # type: ignore[union-attr]


def test_thinking(claude: Anthropic) -> None:
    thought, said = say(claude, "Riddle me this.", thinking={"type": "enabled", "budget_tokens": 1024}).content
    assert (thought.thinking, said.text) == (THOUGHT, SOLUTION)  # type: ignore[union-attr]


def test_options_of_the_other_apis(claude: Anthropic) -> None:
    for fields, text in (
        ({"skip_special_tokens": False}, "one<|im_start|> two"),
        ({"stop": " two"}, "one"),
        ({"stop": " two", "include_stop_str_in_output": True}, "one two"),
    ):
        assert say(claude, "Mark it.", extra_body=fields).content[0].text == text  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_one_call_at_most(claude: Anthropic, choice: dict[str, Any]) -> None:
    for disable, count in ((False, 2), (True, 1)):
        choice = {**choice, "disable_parallel_tool_use": disable}
        answer = say(claude, "Weather in two places?", tools=[TOOL], tool_choice=choice)
        assert [block.type for block in answer.content].count("tool_use") == count


def test_errors(claude: Anthropic, served: Served) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        say(claude, max_tokens=0)
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    with pytest.raises(anthropic.NotFoundError):
        say(claude, model="claude")
    with pytest.raises(anthropic.AuthenticationError):
        say(claude.copy(api_key="wrong"))
    assert say(claude.copy(api_key=KEYS[1])).content
