from __future__ import annotations

import pytest
from pydantic import ValidationError

from router.api.chat import ChatRequest, parse_chat_request
from router.problems import Problem

MESSAGES = [{"role": "user", "content": "hi"}]


def test_unknown_fields_are_found_wherever_they_are() -> None:
    parsed = parse_chat_request(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi", "a": 1}], "b": None, "c": 2},
                {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "d": 1}}]},
            ],
            "stream": True,
            "stream_options": {"e": 1},
            "chat_template_kwargs": {"anything": 1},
            "metadata": {"anything": 1},
            "f": 1,
        },
        max_choices=1,
    )
    assert set(parsed.ignored) == {
        "messages[0].content[0].a",
        "messages[0].c",
        "messages[1].tool_calls[0].function.d",
        "stream_options.e",
        "f",
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": MESSAGES * 10_001}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 10_001}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "video": ["a"] * 10_001}]}]},
            "messages[0].content[0].video",
        ),
    ],
)
def test_lists_are_bounded(body: dict[str, object], param: str) -> None:
    with pytest.raises(Problem, match="10000") as refused:
        parse_chat_request(body, max_choices=1)
    assert refused.value.param == param


def test_the_first_fault_is_the_last_one_looked_for() -> None:
    """Reports of ten thousand faults would take long to make, and only one is shown."""
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate({"messages": [[]] * 10_000})
    assert refused.value.error_count() == 1


def content(parts: object, role: str = "user") -> list[dict[str, object]]:
    """Of one message with these parts, as it was understood."""
    body = {"messages": [{"role": role, "content": parts}]}
    parsed = parse_chat_request(body, max_choices=1)
    assert not parsed.ignored
    (message,) = parsed.request.messages
    return [part.model_dump(exclude_unset=True) for part in message.content]  # type: ignore[union-attr]


def test_parts_that_do_not_say_their_type() -> None:
    """What vLLM takes."""
    assert content(["a", {"text": "b"}, {"type": None, "text": "c"}]) == [
        {"type": "text", "text": text} for text in ("a", "b", "c")
    ]
    assert content([{"image_url": {"url": "u"}, "text": None}, {"image_url": None, "uuid": "x"}]) == [
        {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "image_url", "uuid": "x"},
    ]
    assert content([{"video_url": "u", "image_url": None}, {"video": ["a"], "fps": 2.0}]) == [
        {"type": "video_url", "video_url": "u"},
        {"type": "video", "video": ["a"], "fps": 2.0},
    ]
    for role in ("system", "assistant", "tool"):
        assert content(["a", {"text": "b"}], role) == [{"type": "text", "text": text} for text in ("a", "b")]
    assert content([{"refusal": "no"}], "assistant") == [{"type": "refusal", "refusal": "no"}]


def test_the_newer_limit_counts() -> None:
    for older, newer in ((5, 6), (6, 5)):
        body = {"messages": MESSAGES, "max_tokens": older, "max_completion_tokens": newer}
        assert parse_chat_request(body, max_choices=1).request.wanted_tokens == newer
    assert parse_chat_request({"messages": MESSAGES, "max_tokens": 5}, max_choices=1).request.wanted_tokens == 5


def allowing(*names: str, mode: str = "auto") -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "listen", "smell")]


def test_allowed_tools() -> None:
    """The others are as if they were not there, but for the paths of errors."""
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": allowing("smell", "listen", "smell", mode="required")}
    parsed = parse_chat_request(body, max_choices=1)
    assert [tool.function.name for tool in parsed.request.tools] == ["listen", "smell"]
    assert parsed.request.tool_choice == "required"
    assert parsed.paths.origin("tools[1].function.parameters") == "tools[2].function.parameters"


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowing("look", "taste"), "tool_choice.allowed_tools.tools[1]"),
        (allowing(mode="required"), "tool_choice"),
        (allowing("look", mode="none"), "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "tool_choice.allowed_tools.tools"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "custom", "custom": {"name": "look"}}, "tool_choice.type"),
        ({"type": []}, "tool_choice.type"),
    ],
)
def test_choices_that_are_refused(choice: object, param: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_chat_request({"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice}, max_choices=1)
    assert refused.value.param == param
