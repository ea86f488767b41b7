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
