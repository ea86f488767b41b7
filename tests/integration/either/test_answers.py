"""Answers and their usage, through every endpoint."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, NotFoundError, OpenAI

from tests.integration.contract.asking import ask, stream, streamed_text, strict, text_of, user
from tests.integration.contract.media import data_uri
from tests.integration.either.questions import (
    AGAIN,
    COLOUR,
    GREETING,
    HELLO,
    RED,
    SPELL,
    SPLIT,
)
from tests.integration.seeing.pictures import IMAGE, PICTURE, seen

PROMPT = f"<|im_start|>user\n{HELLO}<|im_end|>\n<|im_start|>assistant\n"
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


def test_cached_tokens(client: OpenAI) -> None:
    """Of a prompt that begins as an earlier one did: whole blocks."""
    begin = tokens(client, "one two three four five six seven eight " * 20)[:128]
    told = []
    for prompt in (begin, begin + tokens(client, AGAIN)):
        answer = client.completions.create(model="demo", prompt=prompt, max_tokens=2, temperature=0)
        told.append(strict(answer).usage.prompt_tokens_details.cached_tokens)  # type: ignore[union-attr]
    assert told == [0, 128]
