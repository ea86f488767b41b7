"""Bodies of /v1/messages to chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.answer.anthropic import error_body
from router.api.anthropic import MessagesRequest, parse_count_request, parse_messages_request
from router.api.request import Parsed
from router.problems import Problem

HI = {"role": "user", "content": "hi"}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def parse(*messages: Any, **fields: Any) -> Parsed[MessagesRequest]:
    return parse_messages_request({"model": "m", "max_tokens": 9, "messages": list(messages) or [HI], **fields})


def shown(*messages: Any, **fields: Any) -> list[dict[str, Any]]:
    chat = parse(*messages, **fields).request.chat
    return [message.model_dump(exclude_none=True, exclude_unset=True) for message in chat.messages]


def fault(*messages: Any, **fields: Any) -> str | None:
    with pytest.raises(Problem) as caught:
        parse(*messages, **fields)
    assert caught.value.status == 400
    return caught.value.param


def test_a_conversation() -> None:
    parsed = parse(
        {"role": "user", "content": [{"type": "text", "text": "What is it?", **EPHEMERAL}, {**PNG, **EPHEMERAL}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                {"type": "text", "text": "I look.", "citations": None},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "ä"}},
                {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "a cat", "is_error": False},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [
                        {"type": "text", "text": "this"},
                        {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
                    ],
                    **EPHEMERAL,
                },
                {"type": "tool_result", "tool_use_id": "t3", "content": "broken", "is_error": True},
                {"type": "tool_result", "tool_use_id": "t4"},
                {"type": "text", "text": "Well?"},
            ],
        },
        system=[{"type": "text", "text": "Be brief.", **EPHEMERAL}],
        **EPHEMERAL,
    )
    assert parsed.ignored == ()
    messages = [m.model_dump(exclude_none=True, exclude_unset=True) for m in parsed.request.chat.messages]
    text = {"type": "text", "text": "What is it?"}
    assert messages[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert messages[1]["content"] == [
        text,
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert messages[2]["reasoning_content"] == "Hm."
    assert messages[2]["content"] == [{"type": "text", "text": "I look."}]
    assert [call["function"]["arguments"] for call in messages[2]["tool_calls"]] == ['{"at": "ä"}', "{}"]
    assert [message["role"] for message in messages[3:]] == ["tool", "tool", "tool", "tool", "user"]
    assert [message.get("tool_call_id") for message in messages[3:7]] == ["t1", "t2", "t3", "t4"]
    assert messages[4]["content"][1]["image_url"]["url"] == "https://a/b.png"
    assert "".join(part["text"] for part in messages[5]["content"]) == "Error: broken"
    assert messages[6]["content"] == []
    assert messages[7]["content"] == [{"type": "text", "text": "Well?"}]
    assert parsed.paths.origin("messages[1].content[1]") == "messages[0].content[1]"
    assert parsed.paths.origin("messages[4].content[1]") == "messages[2].content[1].content[1]"
    assert parsed.paths.origin("messages[7].content[0]") == "messages[2].content[4]"
    assert parsed.paths.origin("messages[0].content[0]") == "system[0]"


def test_plain_texts() -> None:
    assert shown(HI, {"role": "assistant", "content": "a"}, HI, system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        HI,
        {"role": "assistant", "content": "a"},
        HI,
    ]
    assert shown(HI, {"role": "system", "content": "Now in verse."})[1]["role"] == "system"


def test_what_the_user_says_around_results_stays_in_order() -> None:
    blocks = [
        {"type": "text", "text": "a"},
        {"type": "tool_result", "tool_use_id": "t", "content": "b"},
        {"type": "text", "text": "c"},
        {"type": "text", "text": "d"},
    ]
    messages = shown({"role": "user", "content": blocks})
    assert [(m["role"], [p["text"] for p in m["content"]]) for m in messages] == [
        ("user", ["a"]),
        ("tool", ["b"]),
        ("user", ["c", "d"]),
    ]


def test_an_answer_that_has_begun() -> None:
    assert parse(HI, {"role": "assistant", "content": "The"}).request.chat.continue_final_message
    begun = {"role": "assistant", "content": [{"type": "text", "text": "The"}]}
    assert parse(HI, begun).request.chat.continue_final_message
    assert not parse(begun, HI).request.chat.continue_final_message
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    assert fault(HI, {"role": "assistant", "content": [call]}) == "messages[1]"


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
@pytest.mark.parametrize("content", ["", []])
def test_every_turn_but_a_last_one_of_the_assistant_says_something(role: str, content: Any) -> None:
    assert fault({"role": role, "content": content}, HI) == "messages[0].content"
    if role != "assistant":
        assert fault(HI, {"role": role, "content": content}) == "messages[1].content"
    else:  # as at Anthropic: the answer has not begun
        assert shown(HI, {"role": role, "content": content}) == shown(HI)
        assert not parse(HI, {"role": role, "content": content}).request.chat.continue_final_message


def test_options() -> None:
    request = parse(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=1,
        stop_sequences=["x", "y"],
        stream=True,
        tools=[{**TOOL, "strict": True, "type": "custom", **EPHEMERAL}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "u"},
        service_tier="auto",
        chat_template_kwargs={"a": 1},
        mm_processor_kwargs={"max_pixels": 5},
    ).request
    given = request.chat
    assert (request.max_tokens, given.wanted_tokens) == (9, None)
    assert (given.temperature, given.top_p, given.top_k, given.seed) == (0.5, 0.9, 3, 1)
    assert (given.stop_strings, given.stream, given.reasoning_effort) == (("x", "y"), True, "max")
    function = given.tools[0].function
    assert (function.name, function.description, function.parameters) == ("look", "Looks.", {"type": "object"})
    assert function.strict
    assert (given.tool_choice, given.parallel_tool_calls) == ("required", False)
    assert given.chat_template_kwargs == {"a": 1, "enable_thinking": True}
    assert given.mm_processor_kwargs.max_pixels == 5
    assert given.response_format.json_schema.schema_ == {"type": "object"}  # type: ignore[union-attr]


def test_tool_choices() -> None:
    def chosen(**choice: Any) -> Any:
        return parse(tools=[TOOL], tool_choice=choice).request.chat.tool_choice

    assert parse(tools=[TOOL]).request.chat.tool_choice == "auto"
    assert chosen(type="auto") == "auto"
    assert chosen(type="none") == "none"
    assert chosen(type="tool", name="look").function.name == "look"


def test_thinking() -> None:
    def options(**thinking: Any) -> tuple[dict[str, Any], bool]:
        chat = parse(thinking=thinking).request.chat
        return chat.chat_template_kwargs, chat.include_reasoning

    assert options(type="disabled") == ({"enable_thinking": False}, True)
    assert options(type="adaptive") == ({"enable_thinking": True}, True)
    assert options(type="enabled", budget_tokens=2000, display="omitted") == ({"enable_thinking": True}, False)
    assert parse().request.chat.chat_template_kwargs == {}
    off = parse(thinking={"type": "disabled"}, output_config={"effort": "high"})
    assert off.request.chat.reasoning_effort == "none"  # refused by a model that always thinks
    assert off.paths.origin("reasoning_effort") == "thinking"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"min_tokens": 50}, "min_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": [5]}, "stop_sequences[0]"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 2}, "n"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"system": 5}, "system"),
        ({"system": [PNG]}, "system[0].type"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f!", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "perhaps"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    assert fault(**fields) == param


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice asks for a call, but there are no tools"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tools[0].type: this server has no tools of its own, such as 'bash_20250124'",
        ),
        ({"min_tokens": 50}, "min_tokens is 50; the answer may have only 9 tokens"),
    ],
)
def test_errors_are_in_the_words_of_this_api(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(**fields)
    assert json.loads(error_body(caught.value, "r"))["error"]["message"] == message


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "document"}, ""),
        ({"type": "thinking", "thinking": "x"}, ""),
        ({"text": "x"}, ""),
        ("x", ""),
        ({"type": "text"}, ".text"),
        ({"type": "text", "text": "x", "cache_control": 5}, ".cache_control"),
        ({"type": "image", "source": {"type": "file", "file_id": "x"}}, ".source"),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": ""}},
            ".source.media_type",
        ),
        ({"type": "tool_result"}, ".tool_use_id"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "search_result"}]}, ".content[0]"),
    ],
)
def test_blocks_that_are_refused(block: Any, param: str) -> None:
    assert fault({"role": "user", "content": [block]}) == f"messages[0].content[0]{param}"
    assert fault(HI, {"role": "user", "content": [block]}, system="s") == f"messages[1].content[0]{param}"


def test_other_roles_and_their_blocks_are_refused() -> None:
    assert fault({"role": "tool", "content": "x"}) == "messages[0]"
    assert fault(HI, {"role": "assistant", "content": [PNG]}) == "messages[1].content[0]"
    assert fault(HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]}) == (
        "messages[1].content[0].input"
    )


def test_unknown_fields_are_listed_where_the_client_wrote_them() -> None:
    block = {"type": "text", "text": "a", "x": 1}
    parsed = parse(
        {"role": "user", "content": [block], "y": 1}, z=1, tools=[{**TOOL, "w": 1}], system="s", inference_geo="eu"
    )
    assert set(parsed.ignored) == {"messages[0].content[0].x", "messages[0].y", "z", "tools[0].w"}


def test_counts() -> None:
    parsed = parse_count_request({"model": "m", "messages": [HI], "system": "s", "tools": [TOOL]})
    assert (parsed.request.model, parsed.request.stream) == ("m", False)
    assert [tool.function.name for tool in parsed.request.chat.tools] == ["look"]
    assert len(parsed.request.chat.messages) == 2
    generating = parse_count_request({"messages": [HI], "max_tokens": 5, "stream": True, "min_tokens": 50})
    assert not generating.request.stream
