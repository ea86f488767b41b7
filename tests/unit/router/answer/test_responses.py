"""The shape of a response: what its events add up to is the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from openai.types.responses.response_stream_event import ResponseStreamEvent
from pydantic import TypeAdapter

from common.pb import language_pb2
from router.answer.output import Output, OutputRules
from router.answer.reader import ModelReader
from router.answer.reasoning import ReasoningReader
from router.answer.responses import ResponsesShape
from router.answer.shape import CallDelta, Delta, End, Head, Read, Usage, Whole
from router.answer.tool_calls import ToolCallReader
from router.api.responses import parse_responses_request
from router.problems import Problem

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TABLE = [bytes([byte]) for byte in range(256)]
STOP = End(reason="stop", stop_reason=None)
LENGTH = End(reason="length", stop_reason=None)
CALLED = End(reason="tool_calls", stop_reason=None)
USAGE = Usage(prompt=7, output=5, cached=2, visual=3)


def shape_of(**fields: Any) -> ResponsesShape:
    request = parse_responses_request({"input": "hi", **fields}).request
    return ResponsesShape(
        Head(request_id="1", created=5, model="demo", fingerprint="fp", token_bytes=TABLE),
        echo=request.echo,
        sampling=language_pb2.SamplingParams(temperature=0.7, top_p=0.9),
        summary=request.summary,
        with_logprobs=request.chat.logprobs,
    )


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Checks the frame of each event, and its fields with the client's type for it."""
    events = []
    for frame in stream.decode().split("\n\n")[:-1]:
        kind, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(shape: ResponsesShape, deltas: Sequence[Delta], end: End) -> list[dict[str, Any]]:
    parts = [shape.begin(1), *map(shape.delta, deltas), shape.finish(0, end), shape.end(USAGE)]
    return events_of(b"".join(parts))


def whole(shape: ResponsesShape, end: End, *reads: Read, tokens: bytes = b"", **read: Any) -> dict[str, Any]:
    shown = reads or [Read(**read)]
    choice = Whole(index=0, reads=shown, end=end, token_ids=tokens, logprobs=logprobs_of(tokens))
    answer = shape.whole([choice], USAGE)
    Response.model_validate(answer)
    return answer


def added_up(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output as a client that knows only increments has it."""
    output: list[dict[str, Any]] = []
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(output)
                output.append(event["item"])
            case "response.content_part.added":
                output[event["output_index"]]["content"].append(event["part"])
            case "response.reasoning_summary_part.added":
                output[event["output_index"]]["summary"].append(event["part"])
            case "response.output_text.delta":
                part = output[event["output_index"]]["content"][event["content_index"]]
                part["text"] += event["delta"]
                part["logprobs"] += event["logprobs"]
            case "response.reasoning_text.delta":
                output[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "response.reasoning_summary_text.delta":
                output[event["output_index"]]["summary"][event["summary_index"]]["text"] += event["delta"]
            case "response.function_call_arguments.delta":
                output[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_item.done":
                output[event["output_index"]]["status"] = event["item"]["status"]
                assert output[event["output_index"]] == event["item"]
    return output


def test_text() -> None:
    events = stream(shape_of(), [Delta(index=0, read=Read(text="Hel")), Delta(index=0, read=Read(text="lo"))], STOP)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    answer = whole(shape_of(), STOP, text="Hello")
    final = events[-1]["response"]
    assert {**final, "completed_at": 0} == {**answer, "completed_at": 0}
    assert added_up(events) == answer["output"]
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    assert (answer["status"], answer["incomplete_details"]) == ("completed", None)
    assert (answer["id"], answer["created_at"], answer["model"]) == ("resp_1", 5, "demo")
    assert (answer["temperature"], answer["top_p"]) == (0.7, 0.9)
    assert answer["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0, "image_tokens": 3},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }


def test_length() -> None:
    events = stream(shape_of(), [Delta(index=0, read=Read(text="Hel"))], LENGTH)
    assert events[-1]["type"] == "response.incomplete"
    answer = whole(shape_of(), LENGTH, text="Hel")
    assert events[-1]["response"] == answer
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["completed_at"] is None


@pytest.mark.parametrize("summary", [False, True])
def test_all_kinds_of_items(summary: bool) -> None:
    fields: dict[str, Any] = {"reasoning": {"summary": "detailed"}} if summary else {}
    deltas = [
        Delta(index=0, read=Read(reasoning="Let me")),
        Delta(index=0, read=Read(reasoning=" see.", text="I lo")),
        Delta(index=0, read=Read(text="ok.", calls=(CallDelta(index=0, id="call_a", name="look", arguments=""),))),
        Delta(index=0, read=Read(calls=(CallDelta(index=0, arguments='{"at":'), CallDelta(index=0, arguments=" 1}")))),
        Delta(index=0, read=Read(calls=(CallDelta(index=1, id="call_b", name="listen", arguments="{}"),))),
    ]
    events = stream(shape_of(**fields), deltas, CALLED)
    calls = (
        CallDelta(index=0, id="call_a", name="look", arguments='{"at": 1}'),
        CallDelta(index=1, id="call_b", name="listen", arguments="{}"),
    )
    answer = whole(shape_of(**fields), CALLED, text="I look.", reasoning="Let me see.", calls=calls)
    assert added_up(events) == answer["output"] == events[-1]["response"]["output"]
    reasoning, message, look, listen = answer["output"]
    part = {"type": "summary_text" if summary else "reasoning_text", "text": "Let me see."}
    assert reasoning["summary"] == ([part] if summary else [])
    assert reasoning.get("content", []) == ([] if summary else [part])
    assert message["content"][0]["text"] == "I look."
    assert (look["call_id"], look["name"], look["arguments"]) == ("call_a", "look", '{"at": 1}')
    assert (listen["call_id"], listen["name"], listen["arguments"]) == ("call_b", "listen", "{}")
    assert {item["status"] for item in answer["output"]} == {"completed"}
    assert len({item["id"] for item in answer["output"]}) == 4
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in done] == ['{"at": 1}', "{}"]


def test_an_answer_without_a_word() -> None:
    events = stream(shape_of(), [], STOP)
    answer = whole(shape_of(), STOP)
    assert added_up(events) == answer["output"]
    assert [part["text"] for part in answer["output"][0]["content"]] == [""]
    cut = whole(shape_of(), LENGTH, reasoning="Hm")
    assert [item["type"] for item in cut["output"]] == ["reasoning"]


def test_a_stream_that_fails() -> None:
    shape = shape_of()
    begun = shape.begin(1) + shape.delta(Delta(index=0, read=Read(text="Hel")))
    *_, error, failed = events_of(begun + shape.problem(Problem(503, "no server is ready")))
    assert (error["type"], error["code"], error["message"]) == ("error", "unavailable", "no server is ready")
    response = failed["response"]
    assert (failed["type"], response["status"], response["error"]["code"]) == (
        "response.failed",
        "failed",
        "server_error",
    )
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert response["output"][0]["status"] == "incomplete"


def test_the_request_is_shown_again() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    format = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    fields = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "tools": [tool],
        "tool_choice": "required",
        "user": "u",
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "truncation": "disabled",
        "top_logprobs": 3,
    }
    answer = whole(shape_of(**fields, text={"format": format}, reasoning={"effort": "low"}), STOP, text="{}")
    assert {name: answer[name] for name in fields} == fields
    assert answer["text"]["format"] == format
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["store"] is False


def logprobs_of(text: bytes) -> list[language_pb2.TokenLogprobs]:
    return [language_pb2.TokenLogprobs(logprob=-0.5, top_ids=[65], top_logprobs=[-0.25]) for _ in text]


LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
OUTPUT = b'Hm</think>\n\nYes.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n tool_call> \xc3\xa9 \xc3'


def model_reader() -> ModelReader:
    reasoning = ReasoningReader(begun=True, marks=(0, 1))
    return ModelReader(reasoning=reasoning, calls=ToolCallReader(), show_reasoning=True)


@settings(deadline=None)
@given(st.sets(st.integers(0, len(OUTPUT))))
def test_logprobs(cuts: set[int]) -> None:
    """Each message has those of its own text, whatever comes together; reasoning and calls have none."""
    reader, output = model_reader(), Output(OutputRules(), TABLE)
    deltas = []
    for step in (OUTPUT[a:b] for a, b in pairwise(sorted(cuts | {0, len(OUTPUT)}))):
        output.feed(step, logprobs_of(step))
        if output.ids == list(OUTPUT):
            output.finish()
        text, tokens, logprobs = output.take()
        deltas.append(Delta(index=0, token_ids=tokens, logprobs=logprobs))
        deltas += [Delta(index=0, read=read) for read in reader.feed(text, tokens)]
    deltas += [Delta(index=0, read=read) for read in reader.finish()]
    events = stream(shape_of(**LOGPROBS), deltas, CALLED)

    reader, text = model_reader(), OUTPUT[:-1].decode()
    answer = whole(shape_of(**LOGPROBS), CALLED, *reader.feed(text, []), *reader.finish(), tokens=OUTPUT)
    assert without_call_ids(added_up(events)) == without_call_ids(answer["output"])
    messages = [item["content"][0] for item in answer["output"] if item["type"] == "message"]
    assert [message["text"] for message in messages] == ["Yes.", "\n\n tool_call> é"]
    spelled = [bytes(byte for entry in message["logprobs"] for byte in entry["bytes"]) for message in messages]
    assert spelled == [b"Yes.", "\n tool_call> é".encode()]
    assert messages[0]["logprobs"][0]["top_logprobs"] == [{"token": "A", "logprob": -0.25, "bytes": [65]}]


def test_half_a_character_at_the_end_has_its_logprob() -> None:
    answer = whole(shape_of(**LOGPROBS), LENGTH, text="a", span=(0, 1), tokens=b"a\xc3")
    assert [entry["bytes"] for entry in answer["output"][0]["content"][0]["logprobs"]] == [[97], [0xC3]]


def without_call_ids(output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "call_id": ""} for item in output]


@settings(deadline=None)
@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.data())
def test_however_it_is_cut(reasoning: str, text: str, data: st.DataObject) -> None:
    def pieces(of: str) -> list[str]:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(of)), max_size=5)))
        return [of[a:b] for a, b in zip([0, *cuts], [*cuts, len(of)], strict=True)]

    deltas = [Delta(index=0, read=Read(reasoning=piece)) for piece in pieces(reasoning)]
    deltas += [Delta(index=0, read=Read(text=piece)) for piece in pieces(text)]
    answer = whole(shape_of(), STOP, text=text, reasoning=reasoning)
    assert added_up(stream(shape_of(), deltas, STOP)) == answer["output"]
