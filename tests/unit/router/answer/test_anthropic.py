"""The shape of a message: what its events add up to is the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from router.answer.anthropic import MessageShape, error_body
from router.answer.shape import CallDelta, Delta, End, Head, Read, Usage, Whole
from router.problems import Problem

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STOP = End(reason="stop", stop_reason=None)
CALLED = End(reason="tool_calls", stop_reason=None)
USAGE = Usage(prompt=7, output=5, cached=2, reasoning=1)


def shape_of(*, fills_context: bool = False) -> MessageShape:
    head = Head(request_id="1", created=5, model="demo", fingerprint="fp")
    return MessageShape(head, prompt_tokens=7, fills_context=fills_context)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Checks the frame of each event, and its fields with the client's type for it."""
    events = []
    for frame in stream.decode().split("\n\n")[:-1]:
        kind, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            EVENT.validate_python(event)
        events.append(event)
    return events


def stream(shape: MessageShape, deltas: Sequence[Delta], end: End) -> list[dict[str, Any]]:
    parts = [shape.begin(1), *map(shape.delta, deltas), shape.finish(0, end), shape.end(USAGE)]
    return events_of(b"".join(parts))


def whole(shape: MessageShape, end: End, *reads: Read, **read: Any) -> dict[str, Any]:
    choice = Whole(index=0, reads=reads or [Read(**read)], end=end, token_ids=[], logprobs=[])
    answer = shape.whole([choice], USAGE)
    Message.model_validate(answer)
    return answer


def added_up(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message as a client has it in the end."""
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    message: dict[str, Any] = events[0]["message"]
    content = message["content"]
    inputs: dict[int, str] = {}
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(content)
                content.append(event["content_block"])
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(content) - 1
                match event["delta"]:
                    case {"type": "text_delta", "text": text}:
                        content[-1]["text"] += text
                    case {"type": "thinking_delta", "thinking": text}:
                        content[-1]["thinking"] += text
                    case {"type": "signature_delta", "signature": signature}:
                        content[-1]["signature"] = signature
                    case {"type": "input_json_delta", "partial_json": piece}:
                        inputs[event["index"]] = inputs.get(event["index"], "") + piece
            case "content_block_stop":
                is_open = False
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert not is_open
    for index, arguments in inputs.items():
        content[index]["input"] = json.loads(arguments)
    return message


def test_text() -> None:
    events = stream(shape_of(), [Delta(index=0, read=Read(text="Hel")), Delta(index=0, read=Read(text="lo"))], STOP)
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    answer = whole(shape_of(), STOP, text="Hello")
    assert added_up(events) == answer
    assert answer["content"] == [{"type": "text", "text": "Hello", "citations": None}]
    assert (answer["id"], answer["model"], answer["role"]) == ("msg_1", "demo", "assistant")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (5, 2, 5)
    assert usage["output_tokens_details"] == {"thinking_tokens": 1}


def test_all_kinds_of_blocks() -> None:
    deltas = [
        Delta(index=0, read=Read(reasoning="Let me")),
        Delta(index=0, read=Read(reasoning=" see.", text="I lo")),
        Delta(index=0, read=Read(text="ok.", calls=(CallDelta(index=0, id="call_a", name="look", arguments=""),))),
        Delta(index=0, read=Read(calls=(CallDelta(index=0, arguments='{"at":'), CallDelta(index=0, arguments=" 1}")))),
        Delta(index=0, read=Read(calls=(CallDelta(index=1, id="call_b", name="listen", arguments="{}"),))),
    ]
    calls = (
        CallDelta(index=0, id="call_a", name="look", arguments='{"at": 1}'),
        CallDelta(index=1, id="call_b", name="listen", arguments="{}"),
    )
    answer = whole(shape_of(), CALLED, text="I look.", reasoning="Let me see.", calls=calls)
    assert added_up(stream(shape_of(), deltas, CALLED)) == answer
    thinking, text, look, listen = answer["content"]
    assert thinking["thinking"] == "Let me see."
    assert thinking["signature"]
    assert text["text"] == "I look."
    assert look == {"type": "tool_use", "id": "toolu_a", "name": "look", "input": {"at": 1}}
    assert listen["input"] == {}
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("end", "fills_context", "reason", "sequence"),
    [
        (STOP, False, "end_turn", None),
        (End(reason="stop", stop_reason="###"), False, "stop_sequence", "###"),
        (End(reason="stop", stop_reason=5), False, "end_turn", None),
        (End(reason="length", stop_reason=None), False, "max_tokens", None),
        (End(reason="length", stop_reason=None), True, "model_context_window_exceeded", None),
        (STOP, True, "end_turn", None),
        (CALLED, False, "tool_use", None),
    ],
)
def test_why_it_ended(end: End, fills_context: bool, reason: str, sequence: str | None) -> None:
    answer = whole(shape_of(fills_context=fills_context), end, text="a")
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    events = stream(shape_of(fills_context=fills_context), [Delta(index=0, read=Read(text="a"))], end)
    assert added_up(events) == answer


def test_an_answer_without_a_word() -> None:
    answer = whole(shape_of(), STOP)
    assert added_up(stream(shape_of(), [], STOP)) == answer
    assert [block["text"] for block in answer["content"]] == [""]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", {}),
        ('{"a": "b', {}),
        ('{"a": 1, "b": [2', {"a": 1, "b": [2]}),
        *((text, {"arguments": text}) for text in ("nothing", '{"a": NaN}', '{"a": -1e999}')),
    ],
)
def test_input_that_was_not_written_to_its_end(arguments: str, shown: dict[str, Any]) -> None:
    calls = (CallDelta(index=0, id="call_a", name="f", arguments=arguments),)
    answer = whole(shape_of(), End(reason="length", stop_reason=None), calls=calls)
    assert answer["content"][0]["input"] == shown


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    error = json.loads(error_body(Problem(status, "it is wrong"), "1"))
    assert error == {"type": "error", "error": {"type": kind, "message": "it is wrong"}, "request_id": "1"}


def test_errors_say_what_they_are_about() -> None:
    def message(problem: Problem) -> str:
        text: str = json.loads(error_body(problem, "1"))["error"]["message"]
        return text

    assert message(Problem(400, "it is wrong", param="tools[0]")) == "tools[0]: it is wrong"
    assert message(Problem(400, "tools[0] is wrong", param="tools[0]")) == "tools[0] is wrong"


def test_a_stream_that_fails() -> None:
    shape = shape_of()
    begun = shape.begin(1) + shape.delta(Delta(index=0, read=Read(text="Hel")))
    *_, error = events_of(begun + shape.problem(Problem(503, "no server is ready")))
    assert error == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no server is ready"},
        "request_id": "1",
    }


@settings(deadline=None)
@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.data())
def test_however_it_is_cut(reasoning: str, text: str, data: st.DataObject) -> None:
    def pieces(of: str) -> list[str]:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(of)), max_size=5)))
        return [of[a:b] for a, b in zip([0, *cuts], [*cuts, len(of)], strict=True)]

    deltas = [Delta(index=0, read=Read(reasoning=piece)) for piece in pieces(reasoning)]
    deltas += [Delta(index=0, read=Read(text=piece)) for piece in pieces(text)]
    answer = whole(shape_of(), STOP, text=text, reasoning=reasoning)
    assert added_up(stream(shape_of(), deltas, STOP)) == answer
