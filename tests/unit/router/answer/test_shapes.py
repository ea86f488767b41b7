"""A stream says what the whole answer says, however its text is cut into tokens and its tokens into steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pb import language_pb2
from router.answer.chat import ChatShape
from router.answer.completions import CompletionOptions, CompletionShape, EchoedPrompt
from router.answer.output import Output, OutputRules
from router.answer.shape import Delta, End, Head, Read, Shape, Whole
from router.answer.shape import Usage as Tokens

PROMPT = EchoedPrompt(text="žhi", ids=[0, 1, 2])
PROMPT_TABLE = [b"\xc5", b"\xbe", b"hi"]
END = End(reason="stop", stop_reason=None)
USAGE = Tokens(prompt=3, output=5)


def known(token: int) -> language_pb2.TokenLogprobs:
    return language_pb2.TokenLogprobs(logprob=-token, rank=1, top_ids=[token, 0], top_logprobs=[-token, -100])


PROMPT_KNOWN = [known(token) for token in PROMPT.ids[1:]]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[bytes], list[list[int]], OutputRules]:
    """Token table, tokens of each step, rules."""
    text = draw(st.lists(st.sampled_from(["a", "é", "🌋", "b", " ", '"\n']), max_size=12).map("".join))
    content = text.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(content)), max_size=12)) | {0, len(content)})
    table = [*PROMPT_TABLE, *(content[start:end] for start, end in pairwise(cuts))]
    tokens = range(len(PROMPT_TABLE), len(table))
    steps = sorted(draw(st.sets(st.integers(0, len(tokens)), max_size=4)) | {0, len(tokens)})
    stops = draw(st.lists(st.text("aé🌋b ", min_size=1, max_size=3), max_size=2))
    rules = OutputRules(stop=tuple(stops), include_stop=draw(st.booleans()))
    return table, [list(tokens[start:end]) for start, end in pairwise(steps)], rules


def whole_of(table: Sequence[bytes], steps: Sequence[Sequence[int]], rules: OutputRules) -> Whole:
    output = Output(rules, table)
    tokens = [token for step in steps for token in step]
    output.feed(tokens, [known(token) for token in tokens])
    output.finish()
    text, ids, logprobs = output.take()
    return Whole(
        index=0,
        reads=[Read(text=text)],
        token_ids=ids,
        logprobs=logprobs,
        end=END,
        prompt_logprobs=PROMPT_KNOWN,
    )


def streamed(
    shape: Shape, table: Sequence[bytes], steps: Sequence[Sequence[int]], rules: OutputRules, *, prompt: bool
) -> list[Any]:
    """The chunks' choices."""
    output = Output(rules, table)
    events = shape.begin(1)
    if prompt:
        events += shape.delta(Delta(index=0, prompt_logprobs=PROMPT_KNOWN))
    for i, step in enumerate(steps):
        output.feed(step, [known(token) for token in step])
        if i == len(steps) - 1 or output.stop_string is not None:
            output.finish()
        text, ids, logprobs = output.take()
        events += shape.delta(Delta(index=0, read=Read(text=text), token_ids=ids, logprobs=logprobs))
        if output.stop_string is not None:
            break
    events += shape.finish(0, END) + shape.end(USAGE)
    *chunks, last = [line.removeprefix("data: ") for line in events.decode().split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(chunk)["choices"][0] for chunk in chunks]


def chat(table: Sequence[bytes]) -> ChatShape:
    head = Head(request_id="x", created=1, model="m", fingerprint="fp", token_bytes=table)
    return ChatShape(head, with_usage=False, with_token_ids=True, prompt_ids=PROMPT.ids, with_logprobs=True)


@given(answers())
def test_chat(answer: tuple[list[bytes], list[list[int]], OutputRules]) -> None:
    table, steps, rules = answer
    chunks = streamed(chat(table), table, steps, rules, prompt=False)
    (whole,) = chat(table).whole([whole_of(*answer)], USAGE)["choices"]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == whole["message"]["content"]
    content = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
    assert content == whole["logprobs"]["content"]
    assert [token for chunk in chunks for token in chunk.get("token_ids", [])] == whole["token_ids"]
    spelled = bytes(byte for entry in content for byte in entry["bytes"])
    assert spelled.startswith(whole["message"]["content"].encode())


@pytest.mark.parametrize("echo", [False, True])
@given(answer=answers())
def test_completions(answer: tuple[list[bytes], list[list[int]], OutputRules], echo: bool) -> None:
    table, steps, rules = answer
    head = Head(request_id="x", created=1, model="m", fingerprint="fp", token_bytes=table)
    options = CompletionOptions(echo=echo, logprobs=1, with_token_ids=True)
    chunks = streamed(CompletionShape(head, options, [PROMPT]), table, steps, rules, prompt=echo)
    (whole,) = CompletionShape(head, options, [PROMPT]).whole([whole_of(*answer)], USAGE)["choices"]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for name, column in whole["logprobs"].items():
        assert [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"][name]] == column
    assert [token for chunk in chunks for token in chunk.get("token_ids", [])] == whole["token_ids"]
    offsets = whole["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    assert all(offset < len(whole["text"]) for offset in offsets)
    if echo:
        assert offsets[:3] == [0, 0, 1]
        assert whole["logprobs"]["tokens"][:3] == ["bytes:\\xc5", "bytes:\\xbe", "hi"]
