"""Bodies of /v1/responses to chat completions."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.request import Parsed
from router.api.responses import ResponsesRequest, parse_responses_request
from router.problems import Problem

TOOL = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True}


def parse(given: Any = "hi", **fields: Any) -> Parsed[ResponsesRequest]:
    return parse_responses_request({"input": given, **fields})


def chat(given: Any = "hi", **fields: Any) -> dict[str, Any]:
    """What was given of the chat completion."""
    return parse(given, **fields).request.chat.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)


def fault(given: Any = "hi", **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(Problem) as caught:
        parse(given, **fields)
    assert caught.value.status == 400
    return caught.value.param, caught.value.message


def test_text() -> None:
    assert chat()["messages"] == [{"role": "user", "content": "hi"}]
    assert chat(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_a_conversation() -> None:
    """Items of the assistant become one message; an answer of ours is taken back as it is."""
    items = [
        {"role": "developer", "content": "Look."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": "data:,", "detail": "original", "file_id": None},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "look", "arguments": '{"at": 2}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_image", "image_url": "https://a/b.png", "detail": "low"}],
        },
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "So."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Why?"},
    ]
    parsed = parse(items)
    assert parsed.ignored == ()
    messages = [message.model_dump(exclude_none=True, exclude_unset=True) for message in parsed.request.chat.messages]
    assert messages[0] == {"role": "developer", "content": "Look."}
    assert messages[1]["content"][1] == {"type": "input_image", "image_url": "data:,", "detail": "original"}
    assert messages[2]["reasoning_content"] == "Hm."
    assert messages[2]["content"][0]["text"] == "I look."
    assert [call["function"]["arguments"] for call in messages[2]["tool_calls"]] == ['{"at": 1}', '{"at": 2}']
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "a cat"}
    assert messages[4]["content"][0]["detail"] == "low"
    assert (messages[5]["role"], messages[5]["reasoning_content"]) == ("assistant", "So.")
    assert messages[5]["content"] == [{"type": "text", "text": "No."}]
    assert [message["role"] for message in messages[6:]] == ["user"]
    assert parsed.paths.origin("messages[4].content[0]") == "input[7].output[0]"
    assert parsed.paths.origin("messages[2].tool_calls[1].function.arguments") == "input[5].arguments"


def test_turns_are_kept_apart() -> None:
    """Text after text or calls is another message."""
    say = {"role": "assistant", "content": "a"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    think = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}
    hidden = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    messages = parse([say, say, call, think, think, call, hidden, say]).request.chat.messages
    shown = [(bool(m.content), len(m.tool_calls), m.reasoning_content) for m in messages]  # type: ignore[union-attr]
    assert shown == [(True, 0, None), (True, 1, None), (False, 1, "t\nt"), (True, 0, None)]


def test_options() -> None:
    request = parse(
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=1,
        stop=["x"],
        tools=[TOOL],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        stream=True,
        stream_options={"include_obfuscation": False},
        chat_template_kwargs={"a": 1},
        mm_processor_kwargs={"max_pixels": 5},
    ).request
    given = request.chat
    assert (given.wanted_tokens, given.temperature, given.top_p, given.top_k, given.seed) == (9, 0.5, 0.9, 3, 1)
    assert (given.stop_strings, given.stream, given.wanted_logprobs) == (("x",), True, 2)
    assert given.tools[0].function.model_dump() == {k: v for k, v in TOOL.items() if k != "type"}
    assert given.tool_choice.function.name == "look"  # type: ignore[union-attr]
    assert given.parallel_tool_calls is False
    assert given.response_format.json_schema.schema_ == {"type": "object"}  # type: ignore[union-attr]
    assert given.reasoning_effort == "low"
    assert given.chat_template_kwargs == {"a": 1}
    assert given.mm_processor_kwargs.max_pixels == 5
    assert request.summary
    assert not parse().request.summary
    assert parse(max_tokens=5, max_output_tokens=6).request.chat.wanted_tokens == 6
    assert parse(top_logprobs=0).request.chat.wanted_logprobs == 0
    assert parse().request.chat.wanted_logprobs is None


def test_allowed_tools() -> None:
    other = {**TOOL, "name": "listen"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}
    parsed = parse(tools=[other, TOOL], tool_choice=choice)
    request = parsed.request
    assert parsed.paths.origin("tools[0].function.parameters") == "tools[1].parameters"
    assert [tool.function.name for tool in request.chat.tools] == ["look"]
    assert request.chat.tool_choice == "required"
    assert request.echo["tool_choice"] == choice
    for wrong, param in (
        ({"tools": [{"name": "x"}]}, "tool_choice.tools[0]"),
        ({"tools": [{"type": "function"}]}, "tool_choice.tools[0].name"),
        ({"tools": [{"type": "mcp", "name": "look"}]}, "tool_choice.tools[0].type"),
        ({"tools": [5]}, "tool_choice.tools[0]"),
        ({"tools": None}, "tool_choice.tools"),
        ({"tools": []}, "tool_choice"),
        ({"mode": "perhaps"}, "tool_choice.mode"),
    ):
        assert fault(tools=[TOOL, other], tool_choice={**choice, **wrong})[0] == param
    choice["tools"] = [{"type": "function", "name": "listen"}]
    assert fault(tools=[TOOL, {**other, "parameters": 5}], tool_choice=choice)[0] == "tools[1].parameters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["everything"]}, "include[0]"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
        ({"reasoning": {"effort": "some"}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"service_tier": "flex"}, "service_tier"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    assert fault(**fields)[0] == param


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        (5, "input"),
        ([{"type": "item_reference", "id": "x"}], "input[0]"),
        ([5], "input[0]"),
        ([{"role": "judge", "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], "input[0].content[0].file_id"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "system", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0].type"),
        ([{"type": "function_call", "name": "f"}], "input[0].call_id"),
        ([{"type": "function_call_output", "call_id": "f", "output": [{"type": "x"}]}], "input[0].output[0]"),
    ],
)
def test_input_that_is_refused(given: Any, param: str) -> None:
    assert fault(given)[0] == param
    assert fault(given, instructions="shifts all messages by one")[0] == param


def test_errors_are_in_the_words_of_this_api() -> None:
    assert fault(max_output_tokens=5, min_tokens=6)[1] == "min_tokens is 6; the answer may have only 5 tokens"
    assert fault(tools=[{"type": "mcp"}])[1] == "tools[0].type: only functions can be tools here, not 'mcp'"
    assert fault(tool_choice="required")[1] == "tool_choice asks for a call, but there are no tools"


def test_what_is_not_stored_is_explained() -> None:
    assert "send the whole conversation" in fault(previous_response_id="resp_1")[1]
    assert "nothing is stored" in fault([{"type": "item_reference", "id": "x"}])[1]


def test_unknown_fields_are_listed_where_the_client_wrote_them() -> None:
    given = [{"role": "user", "content": [{"type": "input_text", "text": "a", "x": 1}], "y": 1}]
    parsed = parse(given, z=1, tools=[{**TOOL, "w": 1}], instructions="i", store=True, user="u", metadata={"a": "b"})
    assert set(parsed.ignored) == {"input[0].content[0].x", "input[0].y", "z", "tools[0].w"}
    assert (parsed.request.echo["user"], parsed.request.echo["metadata"]) == ("u", {"a": "b"})
    assert parsed.request.echo["store"] is False


def test_null_is_not_given() -> None:
    fields = ("previous_response_id", "tools", "tool_choice", "text", "reasoning", "include", "max_output_tokens")
    assert chat(**dict.fromkeys(fields)) == chat()
