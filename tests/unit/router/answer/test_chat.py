from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice

from router.answer.chat import ChatShape
from router.answer.shape import CallDelta, Delta, End, Head, Read, Usage, Whole


def test_chunks_are_json_whatever_the_text() -> None:
    head = Head(request_id="x", created=1, model='a"b', fingerprint="fp")
    shape = ChatShape(head, with_usage=True, with_token_ids=False, prompt_ids=())
    for text in ("plain", '"quotes"\n', "\u2028 é 🌋 \x00"):
        event = shape.delta(Delta(index=0, read=Read(text=text))).decode()
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        assert "\n" not in event[:-2]
        data = json.loads(event.removeprefix("data: "))
        assert data["choices"][0]["delta"] == {"content": text}
        assert data["usage"] is None
        assert data["object"] == "chat.completion.chunk"
        assert data["model"] == 'a"b'


CALLS = (
    CallDelta(index=0, id="call_1", name="f", arguments='{"a": '),
    CallDelta(index=0, arguments='"é"}'),
    CallDelta(index=1, id="call_2", name="g", arguments="{}"),
)


def shape(*, named_tool: bool = False) -> ChatShape:
    head = Head(request_id="x", created=1, model="m", fingerprint="fp")
    return ChatShape(head, with_usage=False, with_token_ids=False, prompt_ids=(), named_tool=named_tool)


STOP = End(reason="stop", stop_reason=None)


def whole(made: ChatShape, *, end: End = STOP, **read: Any) -> Choice:
    choice = Whole(index=0, reads=[Read(**read)], token_ids=(), logprobs=(), end=end)
    answer = made.whole([choice], Usage(prompt=1, output=1))
    return ChatCompletion.model_validate(answer).choices[0]


def test_content_is_null_beside_something_else() -> None:
    assert whole(shape()).message.content == ""
    assert whole(shape(), calls=CALLS).message.content is None
    assert whole(shape(), reasoning="hm").message.content is None
    both = whole(shape(), calls=CALLS, text="x", reasoning="hm").message
    assert both.content == "x"
    assert both.model_extra == {"reasoning_content": "hm", "reasoning": "hm"}
    assert both.tool_calls is not None
    assert [call.model_dump() for call in both.tool_calls] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert whole(shape()).message.tool_calls is None


@pytest.mark.parametrize(("named", "reason"), [(False, "tool_calls"), (True, "stop")])
def test_the_reason_of_a_named_call(named: bool, reason: str) -> None:
    end = End(reason="tool_calls", stop_reason=None)
    assert whole(shape(named_tool=named), calls=CALLS, end=end).finish_reason == reason
    assert f'"finish_reason":"{reason}"' in shape(named_tool=named).finish(0, end).decode()
    length = End(reason="length", stop_reason=None)
    assert whole(shape(named_tool=named), calls=CALLS, end=length).finish_reason == "length"


def test_deltas_of_reasoning_and_calls() -> None:
    def deltas(token_ids: Sequence[int] = (), **read: Any) -> list[dict[str, Any]]:
        delta = Delta(index=0, read=Read(**read), token_ids=token_ids)
        events = shape().delta(delta).decode().split("\n\n")[:-1]
        chunks = [ChatCompletionChunk.model_validate_json(event.removeprefix("data: ")) for event in events]
        return [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]

    assert deltas(reasoning="é\n") == [{"reasoning_content": "é\n", "reasoning": "é\n"}]
    first, more = CallDelta(index=1, arguments="", id="call_1", name="f"), CallDelta(index=1, arguments='{"a"')
    calls = [
        {"index": 1, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"a"'}},
    ]
    assert deltas(text="x", calls=(first, more)) == [{"content": "x"}, {"tool_calls": calls}]
    assert deltas(reasoning="a", text="b", token_ids=[1]) == [
        {"reasoning_content": "a", "reasoning": "a"},
        {"content": "b"},
    ]
    assert deltas(token_ids=[1]) == [{"content": ""}]
