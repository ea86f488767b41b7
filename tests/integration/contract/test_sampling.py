"""Sampling parameters and log probabilities.

The fakes draw nothing. What a language server is told is shown in router/test_fields.py, and what comes of it in
system/test_features.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionTokenLogprob

from tests.integration.contract.asking import ask, stream
from tests.integration.contract.script import SPLIT, WORDS

# field, a value, values that are refused; those of `OWN` have names in the client
OWN: list[tuple[str, Any, list[Any]]] = [
    ("temperature", 0.5, [-0.1, 101, "warm", True]),
    ("top_p", 0.5, [0, 1.5]),
    ("seed", -5, [1.5, 2**64]),
    ("presence_penalty", -2, [-2.1, 3]),
    ("frequency_penalty", 2, [-2.1, 3]),
    ("logit_bias", {"5": 100, "6": -100}, [{"5": 101}, {"word": 1}, {"99999": 1}, [5]]),
    ("n", 2, [0, 17, 10**9, "2"]),
    ("max_tokens", 5, [0, -1, 2.5, 10**12]),
    ("max_completion_tokens", 5, [0, -1]),
    ("stop", ["a", "b"], [[""], ["x"] * 33, [1], {}]),
    ("logprobs", True, [3]),
]
VLLMS: list[tuple[str, Any, list[Any]]] = [
    ("top_k", 5, [-2, 1.5]),
    ("min_p", 0.5, [-0.1, 1.1]),
    ("repetition_penalty", 1.5, [0, 101, -1]),
    ("bad_words", ["x y"], [[""], "x", ["x" * 1000]]),
    ("allowed_token_ids", [5, 6], [[], [-1], [99999]]),
    ("min_tokens", 1, [-1, 10**6]),
    ("ignore_eos", False, ["no"]),
    ("stop_token_ids", [5], [[-1], [99999], ["x"]]),
    ("prompt_logprobs", 1, [-1, 21]),
    ("include_stop_str_in_output", True, [1]),
    ("skip_special_tokens", True, ["x"]),
    ("return_token_ids", True, [0]),
    ("return_tokens_as_token_ids", True, [0]),
]


@pytest.mark.parametrize(
    ("field", "good", "bad"), OWN + VLLMS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_ranges(client: OpenAI, field: str, good: Any, bad: list[Any]) -> None:
    def fields(value: Any) -> dict[str, Any]:
        return {field: value} if (field, good, bad) in OWN else {"extra_body": {field: value}}

    ask(client, **fields(good))
    ask(client, **fields(None))
    for value in bad:
        with pytest.raises(BadRequestError) as caught:
            ask(client, **fields(value))
        assert (caught.value.param or "").startswith(field), value


def spelled(entries: list[ChatCompletionTokenLogprob]) -> str:
    return b"".join(bytes(entry.bytes or []) for entry in entries).decode()


def test_logprobs_of_chat(client: OpenAI) -> None:
    answer = ask(client, "Spell it.", logprobs=True, top_logprobs=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert spelled(logprobs.content) == SPLIT
    for entry in logprobs.content:
        likeliest = entry.top_logprobs
        assert [top.logprob for top in likeliest] == sorted((top.logprob for top in likeliest), reverse=True)
        assert len(likeliest) == 4
        assert (entry.token, entry.logprob) in [(top.token, top.logprob) for top in likeliest], "ranks are 1 to 3"
    chunks = stream(client, "Spell it.", logprobs=True, top_logprobs=4)
    parts = [choice.logprobs.content or [] for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [entry for part in parts for entry in part] == logprobs.content
    bare = ask(client, "Spell it.", logprobs=True).choices[0].logprobs
    assert bare is not None
    assert {len(entry.top_logprobs) for entry in bare.content or []} == {0}
    assert ask(client).choices[0].logprobs is None


def test_top_logprobs_need_logprobs(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, top_logprobs=3)
    assert caught.value.param == "top_logprobs"


def test_logprobs_of_the_prompt(client: OpenAI) -> None:
    answer = ask(client, extra_body={"prompt_logprobs": 3, "return_token_ids": True})
    first, *others = answer.prompt_logprobs  # type: ignore[attr-defined]
    assert first is None
    assert len(others) + 1 == answer.usage.prompt_tokens  # type: ignore[union-attr]
    for token, entry in zip(answer.prompt_token_ids[1:], others, strict=True):  # type: ignore[attr-defined]
        assert {told["rank"] for told in entry.values()} == {1, 2, 3}
        assert set(entry[str(token)]) == {"logprob", "rank", "decoded_token"}
    with pytest.raises(BadRequestError) as caught:
        stream(client, extra_body={"prompt_logprobs": 1})
    assert caught.value.param == "prompt_logprobs"


def test_tokens_by_their_ids(client: OpenAI) -> None:
    fields = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    (choice,) = ask(client, "Count.", logprobs=True, extra_body=fields).choices
    assert choice.message.content == WORDS
    assert choice.logprobs is not None
    names = [entry.token for entry in choice.logprobs.content or []]
    *ids, _ = choice.token_ids  # type: ignore[attr-defined]  # the last one is the end
    assert names == [f"token_id:{token}" for token in ids]
