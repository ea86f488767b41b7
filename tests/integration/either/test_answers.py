"""Answers and their usage, through every endpoint."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, NotFoundError, OpenAI

from deploy.demo.scenes.talk import WEATHER
from tests.integration.contract.asking import ask, stream, streamed_text, strict, text_of, user
from tests.integration.contract.media import data_uri
from tests.integration.either.questions import (
    AGAIN,
    COLOUR,
    FORM,
    FORM_TEXT,
    GREETING,
    HELLO,
    RED,
    SPELL,
    SPLIT,
    TOOLED,
    WEATHER_QUESTION,
)
from tests.integration.seeing.pictures import IMAGE, PICTURE, seen

PROMPT = f"<|im_start|>user\n{HELLO}<|im_end|>\n<|im_start|>assistant\n"
TOOL: dict[str, Any] = WEATHER.schema()
NAMED = {"type": "function", "function": {"name": WEATHER.name}}
TOOL["function"]["parameters"]["properties"]["city"] = {"type": "string", "enum": ["Paris"]}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": 1}},
    "required": ["a"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # else a model that knows nothing of it may write spaces for ever
}
SPELLED: dict[str, Any] = {"temperature": 0, "extra_body": {"guided_choice": [SPLIT]}}


def tokens(client: OpenAI, text: str) -> list[int]:
    return client.post("../tokenize", cast_to=object, body={"prompt": text})["tokens"]  # type: ignore[index]


def test_every_endpoint_sees(client: OpenAI, claude: Anthropic, web: str) -> None:
    assert text_of(ask(client, seen(COLOUR, PICTURE), temperature=0)) == RED
    for url in (data_uri(IMAGE), f"{web}/picture.png"):
        content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": COLOUR}]
        fields: dict[str, Any] = {"model": "demo", "input": user(content), "temperature": 0}
        assert strict(client.responses.create(**fields)).output_text == RED
    encoded = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(IMAGE).decode()}
    for source in (encoded, {"type": "url", "url": f"{web}/picture.png"}):
        messages: Any = user([{"type": "image", "source": source}, {"type": "text", "text": COLOUR}])
        message = claude.messages.create(model="demo", max_tokens=40, messages=messages, extra_body={"temperature": 0})
        assert strict(message).content[0].text == RED  # type: ignore[union-attr]


def test_kinds_of_prompts(client: OpenAI) -> None:
    """Texts, ids, and lists of both."""
    ids = tokens(client, PROMPT)
    fields: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 40}
    for prompt, count in ((PROMPT, 1), (ids, 1), ([PROMPT, PROMPT], 2), ([ids, ids], 2)):
        answer = strict(client.completions.create(prompt=prompt, **fields))
        assert [choice.text for choice in answer.choices] == [GREETING] * count
    echoed = client.completions.create(prompt=ids, echo=True, **fields)
    assert echoed.choices[0].text == PROMPT + GREETING
    for refused in ({"suffix": "!"}, {"best_of": 3}, {"logprobs": 21}):
        with pytest.raises(BadRequestError) as caught:
            client.completions.create(prompt=PROMPT, **{**fields, **refused})
        assert caught.value.param == next(iter(refused))


def test_what_responses_do_not_keep(client: OpenAI) -> None:
    for field, value in (("previous_response_id", "resp_1"), ("background", True), ("conversation", "conv_1")):
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(model="demo", input=HELLO, **{field: value})  # type: ignore[call-overload]
        assert caught.value.param == field
    with pytest.raises(NotFoundError):
        client.responses.retrieve("resp_1")


def test_the_order_of_a_stream(client: OpenAI) -> None:
    whole = ask(client, HELLO, temperature=0)
    parts = stream(client, HELLO, temperature=0)
    first, *middle, last = [chunk.choices[0] for chunk in parts]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert streamed_text(parts) == text_of(whole) == GREETING
    assert {choice.finish_reason for choice in (first, *middle)} == {choice.delta.role for choice in middle} == {None}
    assert (last.finish_reason, last.delta.content) == ("stop", None)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in parts}) == 1
    assert {chunk.usage for chunk in parts} == {None}


def test_the_usage_of_a_stream(client: OpenAI) -> None:
    *others, last = stream(client, HELLO, temperature=0, stream_options={"include_usage": True})
    assert {chunk.usage for chunk in others} == {None}
    assert last.choices == []
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(client, HELLO, temperature=0, stream_options=options)
    assert chunks[-1].usage == ask(client, HELLO, temperature=0).usage
    assert chunks[-1].usage.completion_tokens == last.usage.completion_tokens  # type: ignore[union-attr]
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    for usage in (chunks[-1].usage, last.usage):
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_characters_that_tokens_split(client: OpenAI) -> None:
    """Of the text, of a stream, and of log probabilities, whose tokens are bytes."""
    answer = ask(client, SPELL, logprobs=True, top_logprobs=2, **SPELLED)
    assert text_of(answer) == SPLIT
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    entries = logprobs.content or []
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == SPLIT
    assert any(entry.token.startswith("\\x") for entry in entries), "part of a character"
    assert {len(entry.top_logprobs) for entry in entries} == {2}
    chunks = stream(client, SPELL, logprobs=True, top_logprobs=2, **SPELLED)
    texts = [streamed_text([chunk]) for chunk in chunks]
    assert "".join(texts) == SPLIT
    assert not any("\ufffd" in text for text in texts)
    parts = [choice.logprobs.content or [] for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [entry.token for part in parts for entry in part] == [entry.token for entry in entries]
    assert "\ufffd" not in (text_of(ask(client, SPELL, max_tokens=3, **SPELLED)) or "")


def test_regular_expressions(client: OpenAI) -> None:
    pattern = r"It is [a-z]+\."
    for extra in ({"guided_regex": pattern}, {"structured_outputs": {"regex": pattern}}):
        assert text_of(ask(client, seen(COLOUR, PICTURE), temperature=0, extra_body=extra)) == RED
    with pytest.raises(BadRequestError) as caught:
        ask(client, HELLO, extra_body={"guided_regex": "("})
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"guided_regex": r'\{"a": 1\}'}},
        {"extra_body": {"guided_choice": [FORM_TEXT]}},
        {"extra_body": {"guided_grammar": r'start: "{" "\"a\"" ": 1}"'}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
        {"extra_body": {"structured_outputs": {"regex": r'\{"a": 1\}'}}},
        {"extra_body": {"structured_outputs": {"grammar": r'root ::= "{" "\"a\"" ": 1}"'}}},
    ],
)
def test_forms(client: OpenAI, fields: dict[str, Any]) -> None:
    """That no model would write by itself: its grammar makes it."""
    fields = {"temperature": 0, "max_tokens": 60, **fields}
    assert json.loads(text_of(ask(client, FORM, **fields)) or "") == {"a": 1}
    assert json.loads(streamed_text(stream(client, FORM, **fields))) == {"a": 1}


def test_forms_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    answer = client.responses.create(model="demo", input=FORM, text=text, temperature=0)
    assert json.loads(strict(answer).output_text) == {"a": 1}
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    messages: Any = user(FORM)
    message = claude.messages.create(model="demo", max_tokens=60, messages=messages, output_config=config)
    assert json.loads(strict(message).content[0].text) == {"a": 1}  # type: ignore[union-attr]


def test_what_a_strict_schema_may_not_have(client: OpenAI) -> None:
    """It is left out of one that is not strict."""
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    wanted: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert ask(client, FORM, max_tokens=2, response_format=wanted).choices
    wanted["json_schema"]["strict"] = True
    with pytest.raises(BadRequestError) as caught:
        ask(client, FORM, response_format=wanted)
    assert (caught.value.param or "").startswith("response_format.json_schema")


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_calls_that_are_asked_for(client: OpenAI, choice: Any, reason: str) -> None:
    """Of a model that would not call by itself; its arguments come in pieces."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 200, "tools": [TOOL], "tool_choice": choice}
    fields["parallel_tool_calls"] = False
    (answer,) = ask(client, TOOLED, **fields).choices
    (call,) = answer.message.tool_calls or []
    assert call.function.name == WEATHER.name  # type: ignore[union-attr]
    assert json.loads(call.function.arguments) == {"city": "Paris"}  # type: ignore[union-attr]
    assert answer.finish_reason == reason
    pieces = [
        piece.function.arguments
        for chunk in stream(client, TOOLED, **fields)
        for piece in chunk.choices[0].delta.tool_calls or []
        if piece.function is not None and piece.function.arguments
    ]
    assert "".join(pieces) == call.function.arguments  # type: ignore[union-attr]
    assert len(pieces) > 1


def test_calls_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    fields: dict[str, Any] = {"model": "demo", "input": TOOLED, "temperature": 0, "parallel_tool_calls": False}
    tool = {"type": "function", **TOOL["function"]}
    for choice in ("required", {"type": "function", "name": WEATHER.name}):
        with client.responses.stream(**fields, tools=[tool], tool_choice=choice) as events:  # type: ignore[arg-type]
            pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
            (call,) = events.get_final_response().output
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"city": "Paris"}
        assert "".join(pieces) == call.arguments
        assert len(pieces) > 1
    claudes: Any = {"name": WEATHER.name, "input_schema": TOOL["function"]["parameters"]}
    for wanted in ({"type": "any"}, {"type": "tool", "name": WEATHER.name}):
        fields = {"model": "demo", "max_tokens": 200, "messages": user(TOOLED), "extra_body": {"temperature": 0}}
        fields["tool_choice"] = {**wanted, "disable_parallel_tool_use": True}
        with claude.messages.stream(**fields, tools=[claudes]) as stream_:
            inputs = [event.partial_json for event in stream_ if event.type == "input_json"]
            (block,) = stream_.get_final_message().content
        assert (block.type, block.input) == ("tool_use", {"city": "Paris"})  # type: ignore[union-attr]
        assert len(inputs) > 1


def test_results_with_images_of_the_other_apis(client: OpenAI, claude: Anthropic) -> None:
    tool: Any = {"type": "function", **TOOL["function"]}
    asked: Any = {"role": "user", "content": WEATHER_QUESTION}
    call: Any = {"type": "function_call", "call_id": "c", "name": WEATHER.name, "arguments": '{"city": "Paris"}'}
    image: Any = {"type": "input_image", "image_url": data_uri(IMAGE)}
    result: Any = {"type": "function_call_output", "call_id": "c", "output": [image]}
    fields: dict[str, Any] = {"model": "demo", "temperature": 0, "tools": [tool], "max_output_tokens": 20}
    answer = strict(client.responses.create(input=[asked, call, result], **fields))
    assert answer.usage.input_tokens_details.image_tokens == 64  # type: ignore[union-attr]
    used: Any = {"type": "tool_use", "id": "c", "name": WEATHER.name, "input": {"city": "Paris"}}
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(IMAGE).decode()}
    back: Any = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image", "source": source}]}
    turns: Any = [asked, {"role": "assistant", "content": [used]}, {"role": "user", "content": [back]}]
    claudes: Any = [{"name": WEATHER.name, "input_schema": TOOL["function"]["parameters"]}]
    counted = claude.messages.count_tokens(model="demo", messages=turns, tools=claudes)
    turns[-1]["content"][0]["content"] = "nothing"
    assert counted.input_tokens > 60 + claude.messages.count_tokens(
        model="demo", messages=turns, tools=claudes
    ).input_tokens - len("nothing")


def test_token_ids(client: OpenAI) -> None:
    """Whole and in pieces, they are what the text is made of."""
    fields: dict[str, Any] = {"temperature": 0, "extra_body": {"return_token_ids": True}}
    whole = ask(client, HELLO, **fields)
    ids = whole.choices[0].token_ids  # type: ignore[attr-defined]
    assert ids == tokens(client, f"{GREETING}<|im_end|>")
    assert whole.prompt_token_ids == tokens(client, PROMPT)  # type: ignore[attr-defined]
    first, *others = stream(client, HELLO, **fields)
    assert first.prompt_token_ids == whole.prompt_token_ids  # type: ignore[attr-defined]
    deltas = [choice for chunk in others for choice in chunk.choices]
    streamed = [token for delta in deltas for token in getattr(delta, "token_ids", None) or []]
    assert streamed[: len(ids) - 1] == ids[:-1], "the last one is the end"


def test_stops_that_nearly_match(client: OpenAI) -> None:
    for stop in (["help you!"], ["?x"], ["Hello! How can I help you? "]):
        assert text_of(ask(client, HELLO, temperature=0, stop=stop)) == GREETING
        assert streamed_text(stream(client, HELLO, temperature=0, stop=stop)) == GREETING
    assert streamed_text(stream(client, HELLO, temperature=0, stop=["p yo"])) == "Hello! How can I hel"


@pytest.mark.parametrize("count", [0, 2])
def test_legacy_logprobs(client: OpenAI, count: int) -> None:
    (choice,) = client.completions.create(
        model="demo", prompt=PROMPT, temperature=0, max_tokens=30, logprobs=count
    ).choices
    legacy = choice.logprobs
    assert legacy is not None
    names = legacy.tokens or []
    assert "".join(names) == choice.text == GREETING
    assert legacy.text_offset == [len("".join(names[:i])) for i in range(len(names))]
    assert legacy.token_logprobs is not None
    assert all(value <= 0 for value in legacy.token_logprobs)
    assert legacy.top_logprobs is not None
    assert all(name in top for name, top in zip(names, legacy.top_logprobs, strict=True))
    assert {len(top) for top in legacy.top_logprobs} <= {max(count, 1), count + 1}


def test_logprobs_of_prompts(client: OpenAI) -> None:
    answer = ask(client, HELLO, max_tokens=1, extra_body={"prompt_logprobs": 2, "return_token_ids": True})
    completion = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=1, extra_body={"prompt_logprobs": 2, "return_token_ids": True}
    )
    for told in (answer, completion.choices[0]):
        (nothing, *others), (_, *ids) = told.prompt_logprobs, told.prompt_token_ids  # type: ignore[union-attr]
        assert nothing is None
        for token, entry in zip(ids, others, strict=True):
            assert 1 in {one["rank"] for one in entry.values()}
            assert set(entry[str(token)]) == {"logprob", "rank", "decoded_token"}
            assert len(entry) in (2, 3)


def test_results_with_images(client: OpenAI) -> None:
    tools = [WEATHER.schema()]
    answer = ask(client, WEATHER_QUESTION, tools=tools, temperature=0)
    (call,) = answer.choices[0].message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": seen("This is the sky.", PICTURE)}
    messages = [*user(WEATHER_QUESTION), answer.choices[0].message, result]
    after = ask(client, messages=messages, tools=tools, temperature=0, max_tokens=20)
    assert text_of(after)
    assert after.usage.prompt_tokens_details.image_tokens == 64  # type: ignore[union-attr]


def test_cached_tokens(client: OpenAI) -> None:
    """Of a prompt that begins as an earlier one did: whole blocks."""
    begin = tokens(client, "one two three four five six seven eight " * 20)[:128]
    told = []
    for prompt in (begin, begin + tokens(client, AGAIN)):
        answer = client.completions.create(model="demo", prompt=prompt, max_tokens=2, temperature=0)
        told.append(strict(answer).usage.prompt_tokens_details.cached_tokens)  # type: ignore[union-attr]
    assert told == [0, 128]
