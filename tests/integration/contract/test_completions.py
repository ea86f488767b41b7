"""Completions: prompts as they are, and the legacy form of logprobs."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion

from tests.integration.contract.asking import strict
from tests.integration.contract.script import CITY_TEXT, GREETING, SPLIT, WORDS


def complete(client: OpenAI, prompt: Any = "Count.", **fields: Any) -> Completion:
    raw = client.completions.with_raw_response.create(model="demo", prompt=prompt, **{"max_tokens": 40, **fields})
    assert "x-ignored-fields" not in raw.headers
    # With echo the first token has null instead of a number, at OpenAI as well, which the types don't know.
    return raw.parse() if "echo" in fields else strict(raw.parse())


def stream(client: OpenAI, prompt: Any = "Count.", **fields: Any) -> list[Completion]:
    fields = {"max_tokens": 40, **fields}
    with client.completions.create(model="demo", prompt=prompt, stream=True, **fields) as chunks:
        return list(chunks)


def tokens(client: OpenAI, text: str) -> list[int]:
    return client.post("../tokenize", cast_to=object, body={"prompt": text})["tokens"]  # type: ignore[index]


def test_an_answer(client: OpenAI) -> None:
    answer = complete(client)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (WORDS, "stop", None)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokens(client, "Count."))
    assert answer.usage.completion_tokens == len(tokens(client, WORDS)) + 1
    short = complete(client, "Greet. Greet.", max_tokens=None, extra_body={"ignore_eos": True})
    assert short.usage is not None
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (16, "length")


def test_timings(client: OpenAI) -> None:
    assert complete(client, extra_body={"return_timings": True}).timings["decode"] > 0  # type: ignore[attr-defined]


def test_kinds_of_prompts(client: OpenAI) -> None:
    count, greet = tokens(client, "Count."), tokens(client, "Greet.")
    for prompt in (["Count.", "Greet."], [count, greet]):
        answer = complete(client, prompt, n=2)
        texts = [(choice.index, choice.text) for choice in answer.choices]
        assert texts == [(0, WORDS), (1, WORDS), (2, GREETING), (3, GREETING)]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(count) + len(greet)
    assert complete(client, greet).choices[0].text == GREETING
    assert complete(client, "Greet.", n=2, best_of=2).choices[1].text == GREETING
    assert complete(client, "Greet.", extra_body={"add_special_tokens": False}).choices[0].text == GREETING


def test_ends(client: OpenAI) -> None:
    assert complete(client, max_tokens=1).choices[0].finish_reason == "length"
    assert complete(client, stop=["o thr"]).choices[0].text == "one tw"
    fields = {"stop_token_ids": tokens(client, " three"), "include_stop_str_in_output": True}
    assert complete(client, extra_body=fields).choices[0].text == "one two three"
    shown = complete(client, "Mark it.", extra_body={"skip_special_tokens": False, "return_token_ids": True})
    assert shown.choices[0].text == "one<|im_start|> two"
    assert shown.choices[0].prompt_token_ids == tokens(client, "Mark it.")  # type: ignore[attr-defined]


def test_streams(client: OpenAI) -> None:
    chunks = stream(client)
    assert "".join(chunk.choices[0].text for chunk in chunks) == WORDS
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert {chunk.usage for chunk in chunks} == {None}
    options = {"include_usage": True, "continuous_usage_stats": True}
    *others, last = stream(client, stream_options=options)
    assert (last.choices, last.usage) == ([], complete(client).usage)
    assert all(chunk.usage for chunk in others)
    spelled = stream(client, "Spell it.", echo=True)
    assert "".join(chunk.choices[0].text for chunk in spelled) == f"Spell it.{SPLIT}"
    assert "\ufffd" not in "".join(chunk.choices[0].text for chunk in spelled)


@pytest.mark.parametrize("count", [0, 3])
def test_logprobs(client: OpenAI, count: int) -> None:
    (choice,) = complete(client, "Count.", logprobs=count, echo=True).choices
    assert choice.text == f"Count.{WORDS}"
    legacy = choice.logprobs
    assert legacy is not None
    assert "".join(legacy.tokens or []) == choice.text
    assert legacy.text_offset == [len("".join((legacy.tokens or [])[:i])) for i in range(len(legacy.tokens or []))]
    assert legacy.token_logprobs is not None
    assert legacy.token_logprobs[0] is None, "nothing comes before the first token"
    assert all(value < 0 for value in legacy.token_logprobs[1:])
    assert legacy.top_logprobs is not None
    assert {len(top) for top in legacy.top_logprobs[1:]} == {max(count, 1)}
    parts = [chunk.choices[0].logprobs for chunk in stream(client, "Count.", logprobs=count, echo=True)]
    assert [token for part in parts if part for token in part.tokens or []] == legacy.tokens


def test_only_the_prompt(client: OpenAI) -> None:
    answer = complete(client, ["one two", "three"], echo=True, max_tokens=0, logprobs=1)
    assert [choice.text for choice in answer.choices] == ["one two", "three"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    rated = complete(client, "one two", max_tokens=0, extra_body={"prompt_logprobs": 1})
    assert len(rated.choices[0].prompt_logprobs) == len(tokens(client, "one two"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"guided_json": {"type": "object"}, "guided_whitespace_pattern": " ?"},
        {"guided_regex": r"\{.*\}"},
        {"guided_choice": [CITY_TEXT]},
        {"guided_grammar": 'start: "{" /[^}]*/ "}"'},
        {"structured_outputs": {"json_object": True}},
    ],
)
def test_structured_answers(client: OpenAI, fields: dict[str, Any]) -> None:
    assert complete(client, "Describe a city.", max_tokens=80, extra_body=fields).choices[0].text == CITY_TEXT


@pytest.mark.parametrize(
    ("prompt", "fields", "param"),
    [
        ("a", {"suffix": "b"}, "suffix"),
        ("a", {"best_of": 3}, "best_of"),
        ("a", {"logprobs": 21}, "logprobs"),
        ("a", {"max_tokens": 0}, "max_tokens"),
        ("", {}, "prompt"),
        (["a", 1], {}, "prompt[1]"),
        ([[1], []], {}, "prompt[1]"),
        ([10**6], {}, "prompt"),
        ("word " * 5000, {}, "prompt"),
        (["a"] * 200, {"n": 2}, "prompt"),
        ("a", {"extra_body": {"messages": []}}, "messages"),
        ("a", {"extra_body": {"add_special_tokens": "no"}}, "add_special_tokens"),
    ],
)
def test_what_is_refused(client: OpenAI, prompt: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        complete(client, prompt, **fields)
    assert caught.value.param == param
