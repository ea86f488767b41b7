from __future__ import annotations

from typing import Any

from common.pb import common_pb2
from router.api.chat import parse_chat_request
from router.prompt.conversation import Conversation, converse, text_bytes


def conversation(*messages: dict[str, Any], largest_image: int = 1 << 30, **fields: Any) -> Conversation:
    request = parse_chat_request({"messages": list(messages), **fields}, max_choices=1).request
    return converse(request.messages, request.mm_processor_kwargs, largest_image=largest_image)


def image(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_media_in_the_order_of_the_messages() -> None:
    made = conversation(
        user(image("data:1"), {"type": "input_text", "text": "x"}, {"type": "video_url", "video_url": "data:2"}),
        {"role": "tool", "content": [{"type": "input_image", "image_url": "data:3"}]},
    )
    assert [(ref.kind, ref.urls, ref.param) for ref in made.media] == [
        (common_pb2.IMAGE, ("data:1",), "messages[0].content[0]"),
        (common_pb2.VIDEO, ("data:2",), "messages[0].content[2]"),
        (common_pb2.IMAGE, ("data:3",), "messages[1].content[0]"),
    ]
    assert made.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "x"}, {"type": "video"}]


def test_low_detail_is_never_over_the_limit_of_the_model() -> None:
    for largest, expected in ((1 << 30, 512 * 512), (1000, 1000)):
        (ref,) = conversation(user(image("data:1", detail="low")), largest_image=largest).media
        assert ref.options.max_pixels == expected
    (ref,) = conversation(user(image("data:1", detail="low")), mm_processor_kwargs={"max_pixels": 77}).media
    assert ref.options.max_pixels == 77
    (ref,) = conversation(user(image("data:1", detail="high")), mm_processor_kwargs={"fps": 1}).media
    assert ref.options == common_pb2.MediaOptions(), "options of videos are not for images"


def test_affinity_is_of_the_beginning() -> None:
    system, first = {"role": "system", "content": "be brief"}, user(image("data:1"))
    keys = [b"k" * 32]
    begun = conversation(system, first).affinity(b"", keys)
    later = conversation(system, first, {"role": "assistant", "content": "a"}, user(image("data:2")))
    assert later.affinity(b"", [*keys, b"l" * 32]) == begun
    assert later.affinity(b"salt", [*keys, b"l" * 32]) != begun
    assert conversation(system, first).affinity(b"", [b"m" * 32]) != begun
    assert conversation(first).affinity(b"", keys) != begun


def test_an_assistant_message_as_the_template_sees_it() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, "é"]}'}},
        {"function": {"name": "f", "arguments": {"x": 1}}},
        {"function": {"name": "f", "arguments": ""}},
        {"function": {"name": "f", "arguments": "[1]"}},  # no object: as it is
        {"function": {"name": "f", "arguments": "["}},
        {"function": {"name": "f", "arguments": '{"x": 1e999}'}},
        {"function": {"name": "f", "arguments": "[" * 100_000}},
    ]
    (shown,) = conversation({"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": calls}).messages
    assert shown["content"] == ""
    assert shown["reasoning_content"] == "hm"
    arguments = [call["function"]["arguments"] for call in shown["tool_calls"]]
    assert arguments == [{"x": [1, "é"]}, {"x": 1}, {}, "[1]", "[", '{"x": 1e999}', "[" * 100_000]
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "!"}]}
    assert conversation(refusal).messages[0]["content"] == [
        {"type": "text", "text": "no"},
        {"type": "text", "text": "!"},
    ]


def test_all_text_counts() -> None:
    long = "é" * 1000
    said: list[dict[str, Any]] = [
        {"role": "user", "content": long},
        user({"type": "text", "text": long}),
        {"role": "assistant", "reasoning_content": long},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {long: 1}}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [long]}}}]},
    ]
    for message in said:
        assert 2000 <= conversation(message).text_bytes < 2100
    assert text_bytes({"x": [long, True]}) == 2002
    (tool,) = parse_chat_request(
        {"messages": said[:1], "tools": [{"function": {"name": "f", "description": long}}]}, max_choices=1
    ).request.tools
    assert Conversation(messages=[], tools=[tool.shown()], media=[]).text_bytes >= 2000


def test_tools_are_shown_without_what_the_model_is_not_told() -> None:
    fields = {"name": "f", "strict": True, "parameters": {"type": "object"}, "description": None, "odd": 1}
    parsed = parse_chat_request(
        {"messages": [user()], "tools": [{"type": "function", "function": fields}]}, max_choices=1
    )
    assert parsed.ignored == ("tools[0].function.odd",)
    (tool,) = parsed.request.tools
    assert tool.shown() == {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    made = converse(parsed.request.messages, parsed.request.mm_processor_kwargs, largest_image=1, tools=[tool])
    assert made.tools == [tool.shown()]
    bare = converse(parsed.request.messages, parsed.request.mm_processor_kwargs, largest_image=1)
    assert made.affinity(b"", []) != bare.affinity(b"", [])
