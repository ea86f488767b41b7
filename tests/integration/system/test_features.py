"""What a request asks of the engine, and what comes of it: a model whose weights are random says anything unless it is
held to something."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from tests.checkpoints import DEMO_FILES
from tests.integration.contract.asking import stream, streamed_text, strict, user
from tests.integration.contract.media import image_part, png
from tests.integration.system.small import small_system
from tests.serving import Served

TOKENIZER = Tokenizer.from_file(str(DEMO_FILES / "tokenizer.json"))
END = TOKENIZER.token_to_id("<|im_end|>")
# They stand for images and videos and are never made, however likely they are.
PLACEHOLDERS = {f"token_id:{TOKENIZER.token_to_id(name)}" for name in ("<|image_pad|>", "<|video_pad|>")}
# Of numbers that are computed in different batches.
CLOSE = 1e-4


class Thing(BaseModel):
    colour: str = Field(pattern="^(red|blue)$")
    sides: int = Field(ge=3, le=9)
    at: list[bool] = Field(min_length=2, max_length=3)


SCHEMA = Thing.model_json_schema() | {"additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "draw", "parameters": SCHEMA}}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
OTHER = {"type": "function", "function": {"name": "wipe", "parameters": NOTHING}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with small_system(tmp_path_factory.mktemp("features")) as served:
        yield served


def ask(client: OpenAI, content: Any = "Draw something.", **fields: Any) -> ChatCompletion:
    fields = {"max_tokens": 24, "temperature": 0, **fields}
    extra = {"return_token_ids": True, **fields.pop("extra_body", {})}
    return strict(
        client.chat.completions.create(model="demo", messages=user(content), extra_body=extra, **fields)  # type: ignore[arg-type]
    )


def ids_of(answer: ChatCompletion | Completion, choice: int = 0) -> list[int]:
    ids: list[int] = answer.choices[choice].token_ids  # type: ignore[union-attr]
    return ids


# -- held to something -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}}},
    ],
)
def test_json(client: OpenAI, fields: dict[str, Any]) -> None:
    fields = {"max_tokens": 1000, "temperature": 1, "n": 4, "seed": 1, **fields}
    answer = ask(client, **fields)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        Thing.model_validate_json(choice.message.content or "", strict=True)
    assert len({choice.message.content for choice in answer.choices}) > 1
    about_an_image = ask(client, [image_part(png(128, 128)), {"type": "text", "text": "What is it?"}], **fields)
    Thing.model_validate_json(about_an_image.choices[0].message.content or "", strict=True)


def test_other_forms(client: OpenAI) -> None:
    for extra, check in (
        ({"guided_choice": ["left", "right"]}, {"left", "right"}.__contains__),
        ({"guided_regex": "[ab]{3}-[0-9]{2}"}, lambda text: len(text) == 6 and text[3] == "-"),
        ({"guided_grammar": 'start: "x" (" y" | " z")'}, {"x y", "x z"}.__contains__),
        ({"structured_outputs": {"json_object": True}}, lambda text: isinstance(json.loads(text), dict)),
    ):
        if "structured_outputs" in extra:  # or it goes on for long
            extra = {**extra, "allowed_token_ids": [TOKENIZER.token_to_id(word) for word in "{}ab"]}
        for temperature in (0, 1):
            (choice,) = ask(client, temperature=temperature, seed=3, max_tokens=200, extra_body=extra).choices
            assert choice.finish_reason == "stop"
            assert check(choice.message.content or ""), (extra, choice.message.content)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"draw", "wipe"}), ({"type": "function", "function": {"name": "draw"}}, {"draw"})],
)
def test_calls(client: OpenAI, choice: Any, names: set[str]) -> None:
    fields = {"tools": [TOOL, OTHER], "tool_choice": choice, "temperature": 1, "max_tokens": 1000, "seed": 2}
    answer = ask(client, parallel_tool_calls=False, n=4, **fields)
    for each in answer.choices:
        (call,) = each.message.tool_calls or []
        assert each.message.content is None
        assert call.type == "function"
        assert call.function.name in names
        if call.function.name == "draw":
            Thing.model_validate_json(call.function.arguments, strict=True)
    chunks = stream(client, "Draw something.", parallel_tool_calls=False, **fields)
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    written = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert isinstance(json.loads(written), dict)
    assert streamed_text(chunks) == ""


def test_no_calls(client: OpenAI) -> None:
    """However much the model wants to."""
    eager = {"logit_bias": {str(TOKENIZER.token_to_id("<tool_call>")): 100}}
    strict_tool = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    (forced,) = ask(client, tools=[strict_tool], max_tokens=1000, parallel_tool_calls=False, extra_body=eager).choices
    (call,) = forced.message.tool_calls or []
    assert forced.finish_reason == "tool_calls"
    Thing.model_validate_json(call.function.arguments, strict=True)  # type: ignore[union-attr]
    (choice,) = ask(client, tools=[TOOL], tool_choice="none", extra_body=eager).choices
    assert choice.message.tool_calls is None
    assert TOKENIZER.token_to_id("<tool_call>") not in choice.token_ids  # type: ignore[attr-defined]


# -- draws -----------------------------------------------------------------------------------------------------------


def test_choices_and_seeds(client: OpenAI) -> None:
    first = ask(client, n=3, seed=7, temperature=1)
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    again = ask(client, n=3, seed=7, temperature=1)
    assert [choice.message.content for choice in again.choices] == texts
    assert ask(client, seed=7, temperature=1).choices[0].message.content == texts[0], "alone as in a batch"
    assert ask(client, seed=8, temperature=1).choices[0].message.content not in texts
    assert ids_of(ask(client, temperature=1)) != ids_of(ask(client, temperature=1)), "without a seed there is another"


@pytest.mark.parametrize("fields", [{"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}])
def test_only_the_likeliest(client: OpenAI, fields: dict[str, Any]) -> None:
    greedy = ids_of(ask(client))
    assert ids_of(ask(client, temperature=3, seed=1, **fields)) == greedy
    assert ids_of(ask(client, temperature=3, seed=1)) != greedy


@pytest.mark.parametrize(
    ("presence", "frequency"), [(2.0, 0.0), (0.0, 2.0), (1.0, 1.0), (-2.0, 0.0), (0.0, -1.0), (0.0, 0.0)]
)
def test_penalties(client: OpenAI, presence: float, frequency: float) -> None:
    """Each token is the likeliest by the model's own log probabilities less what the tokens before it cost."""
    answer = ask(
        client,
        max_tokens=48,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logprobs=True,
        top_logprobs=20,
        extra_body={"ignore_eos": True, "return_tokens_as_token_ids": True, "skip_special_tokens": False},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    said: dict[str, int] = {}
    for entry in logprobs.content or []:

        def after_penalties(token: str, logprob: float) -> float:
            count = said.get(token, 0)
            return logprob - presence * (count > 0) - frequency * count

        possible = [top for top in entry.top_logprobs if top.token not in PLACEHOLDERS]
        best = max(after_penalties(top.token, top.logprob) for top in possible)
        assert after_penalties(entry.token, entry.logprob) >= best - CLOSE
        said[entry.token] = said.get(entry.token, 0) + 1


def test_bans(client: OpenAI) -> None:
    repeated = ids_of(ask(client, max_tokens=60, extra_body={"repetition_penalty": 100, "ignore_eos": True}))
    assert len(set(repeated)) == len(repeated)
    words = [TOKENIZER.token_to_id(word) for word in ("a", "b", "c")]
    assert set(ids_of(ask(client, temperature=1, extra_body={"allowed_token_ids": words}))) <= set(words)
    biased = {"logit_bias": {str(words[1]): 100}}
    assert set(ids_of(ask(client, **biased))) == {words[1]}
    banned = ids_of(ask(client, **biased, extra_body={"bad_words": ["b"]}))
    assert words[1] not in banned


def test_the_end(client: OpenAI) -> None:
    eager = {"logit_bias": {str(END): 100}}
    for extra, count, reason in (
        ({}, 1, "stop"),
        ({"min_tokens": 5}, 6, "stop"),
        ({"ignore_eos": True}, 9, "length"),
    ):
        answer = ask(client, max_tokens=9, extra_body=extra, **eager)
        assert answer.usage is not None
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (count, reason)


# -- log probabilities -----------------------------------------------------------------------------------------------


def test_logprobs(client: OpenAI) -> None:
    fields = {"logprobs": True, "top_logprobs": 20, "extra_body": {"ignore_eos": True, "skip_special_tokens": False}}
    greedy = ask(client, **fields).choices[0].logprobs
    assert greedy is not None
    for entry in greedy.content or []:
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + CLOSE
        assert entry.logprob in values[:3], "before it there can be placeholders, which are never made"
    warm = ask(client, temperature=5, seed=1, **fields).choices[0].logprobs
    assert warm is not None
    first, other = (greedy.content or [])[0], (warm.content or [])[0]
    assert [top.logprob for top in other.top_logprobs] == pytest.approx(
        [top.logprob for top in first.top_logprobs], abs=CLOSE
    ), "they are the model's own, whatever is drawn"
    chunks = stream(client, "Draw something.", max_tokens=24, temperature=0, **fields)
    parts = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    told = [entry for part in parts for entry in part.content or []]
    assert [entry.token for entry in told] == [entry.token for entry in greedy.content or []]


def test_a_text_is_rated_as_it_was_made(client: OpenAI) -> None:
    """Log probabilities of an answer, and of the same tokens as a prompt, by echo and by prompt_logprobs."""
    prompt = TOKENIZER.encode("Once upon a time", add_special_tokens=False).ids
    made = client.completions.create(
        model="demo",
        prompt=prompt,
        max_tokens=20,
        temperature=1,
        seed=5,
        logprobs=0,
        extra_body={"return_token_ids": True, "ignore_eos": True, "skip_special_tokens": False},
    )
    said = made.choices[0].logprobs
    assert said is not None
    for attempt in range(2):  # the second one finds the prompt in the cache
        rated = client.completions.create(
            model="demo",
            prompt=prompt + ids_of(made),
            max_tokens=0,
            echo=True,
            logprobs=2,
            extra_body={"prompt_logprobs": 2},
        ).choices[0]
        assert rated.logprobs is not None
        values = (rated.logprobs.token_logprobs or [])[len(prompt) :]
        assert values == pytest.approx(said.token_logprobs, abs=CLOSE), attempt
        entries = rated.prompt_logprobs[len(prompt) :]  # type: ignore[attr-defined]
        own = [entry[str(token)]["logprob"] for token, entry in zip(ids_of(made), entries, strict=True)]
        assert own == pytest.approx(said.token_logprobs, abs=CLOSE)
        for token, entry in zip(ids_of(made), entries, strict=True):
            ranks = {told["rank"]: told["logprob"] for told in entry.values()}
            assert ranks[1] == max(ranks.values())
            assert entry[str(token)]["rank"] >= 1


def test_logprobs_of_a_prompt_with_an_image(client: OpenAI) -> None:
    answer = ask(
        client, [image_part(png(128, 128, 50)), {"type": "text", "text": "What?"}], extra_body={"prompt_logprobs": 0}
    )
    first, *others = answer.prompt_logprobs  # type: ignore[attr-defined]
    assert first is None
    assert answer.usage is not None
    assert len(others) + 1 == answer.usage.prompt_tokens
    assert all(told["logprob"] <= 0 for entry in others for told in entry.values())
