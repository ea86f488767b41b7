"""Logprobs as clients see them, in all their forms."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.integration.router.peers import made_up_logprobs
from tests.integration.router.system import TOKENIZER, Router, events_of, ids_of, says, system

TEXT = "one žluť 🌋 two"
IDS = ids_of(TEXT)


def test_the_text_has_characters_that_tokens_split() -> None:
    assert any("\ufffd" in TOKENIZER.decode([token]) for token in IDS)


def spelled(entries: list[Any]) -> str:
    return bytes(byte for entry in entries for byte in entry["bytes"]).decode()


async def test_chat() -> None:
    async with system(says(TEXT)) as (router, _, _):
        answer = (await router.chat("hi", logprobs=True, top_logprobs=2)).json()
        plain = (await router.chat("hi")).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert spelled(content) == TEXT
    assert len(content) == len(IDS), "the end of the turn is no part of the text"
    for token, entry in zip(IDS, content, strict=True):
        expected = made_up_logprobs(token, 2)
        assert entry["logprob"] == expected.logprob
        assert [top["logprob"] for top in entry["top_logprobs"]] == list(expected.top_logprobs)
        assert entry["top_logprobs"][1] == {key: entry[key] for key in ("token", "logprob", "bytes")} | {
            "logprob": expected.top_logprobs[1]
        }
        assert entry["token"] == bytes(entry["bytes"]).decode(errors="backslashreplace")
    assert plain["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("fields", [{}, {"stop": ["luť 🌋 t", "never"]}, {"stop": "two two"}, {"max_tokens": 6}])
async def test_a_stream_says_the_same(fields: dict[str, Any]) -> None:
    """And each chunk has the logprobs of the tokens that its text is made of."""
    async with system(says(TEXT)) as (router, _, _):
        whole = (await router.chat("hi", logprobs=True, top_logprobs=1, **fields)).json()["choices"][0]
        stream = await router.chat("hi", logprobs=True, top_logprobs=1, stream=True, **fields)
    chunks = [event["choices"][0] for event in events_of(stream.text)[:-1]]
    content = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
    assert content == whole["logprobs"]["content"]
    shown = "".join(chunk["delta"].get("content", "") for chunk in chunks)
    assert shown == whole["message"]["content"]
    if "stop" not in fields:
        for chunk in chunks:
            if chunk["logprobs"]:
                assert (
                    bytes(b for e in chunk["logprobs"]["content"] for b in e["bytes"]).decode(errors="ignore")
                    == chunk["delta"]["content"]
                )


async def test_tokens_as_ids() -> None:
    async with system(says(TEXT)) as (router, _, _):
        chat = (await router.chat("hi", logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True)).json()
        body = {"prompt": "hi", "logprobs": 1, "return_tokens_as_token_ids": True}
        completion = (await router.client.post("/v1/completions", json=body)).json()
    content = chat["choices"][0]["logprobs"]["content"]
    names = [f"token_id:{token}" for token in IDS]
    assert [entry["token"] for entry in content] == names
    assert spelled(content) == TEXT
    assert content[0]["top_logprobs"][0]["token"] == f"token_id:{IDS[0] + 1}"
    assert completion["choices"][0]["logprobs"]["tokens"] == names[:16]


async def test_prompt_logprobs() -> None:
    async with system(says("ok")) as (router, (language,), _):
        chat = (await router.chat("hi", prompt_logprobs=1, n=2)).json()
        completion = (
            await router.client.post("/v1/completions", json={"prompt": "one two", "prompt_logprobs": 0})
        ).json()
    prompt = list(language.served[0].generate.prompt_ids)
    shown = chat["prompt_logprobs"]
    assert (len(shown), shown[0]) == (len(prompt), None)
    for token, entry in zip(prompt[1:], shown[1:], strict=True):
        following = (token + 1) % 1252
        assert entry == {
            str(token): {"logprob": -1.0, "rank": 2, "decoded_token": decoded(router, token)},
            str(following): {"logprob": -0.5, "rank": 1, "decoded_token": decoded(router, following)},
        }
    one, two = ids_of("one two")[:2]
    assert completion["choices"][0]["prompt_logprobs"][:2] == [
        None, {str(two): {"logprob": -1.0, "rank": 2, "decoded_token": decoded(router, two)}}
    ]  # fmt: skip
    assert one == language.served[-1].generate.prompt_ids[0]


async def test_a_prompt_is_rated_once_for_all_its_choices() -> None:
    async with system(says("ok")) as (router, (language,), _):
        fields = {"prompt": ["one two", "three four"], "echo": True, "logprobs": 0, "n": 3}
        whole = (await router.client.post("/v1/completions", json=fields)).json()["choices"]
        stream = events_of((await router.client.post("/v1/completions", json={**fields, "stream": True})).text)[:-1]
    told = [served.generate.sampling for served in language.served]
    assert [sampling.HasField("prompt_logprobs") for sampling in told] == [sampling.choice == 0 for sampling in told]
    assert len(told) == 12
    for choice in whole:
        pieces = [chunk["choices"][0] for chunk in stream if chunk["choices"][0]["index"] == choice["index"]]
        tokens = [token for piece in pieces if piece["logprobs"] for token in piece["logprobs"]["tokens"]]
        assert "".join(tokens) == choice["text"]
        assert tokens == choice["logprobs"]["tokens"]
        assert pieces[0]["logprobs"]["token_logprobs"][0] is None


def decoded(router: Router, token: int) -> str:
    model = router.services.fleet.model
    assert model is not None
    return model.token_bytes[token].decode(errors="backslashreplace")


async def test_the_official_client() -> None:
    async with system(says("Fine, thanks.")) as (router, _, _):
        client = AsyncOpenAI(base_url=f"{router.address}/v1", api_key="none")
        async with client:
            answer = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=3
            )
            completion = await client.completions.create(model="demo", prompt="hi", logprobs=2, echo=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == "Fine, thanks."
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)
    legacy = completion.choices[0].logprobs
    assert legacy is not None
    assert legacy.tokens is not None
    assert "".join(legacy.tokens) == completion.choices[0].text == "hiFine, thanks."
    assert legacy.text_offset is not None
    assert legacy.text_offset == [len("".join(legacy.tokens[:i])) for i in range(len(legacy.tokens))]


async def test_a_server_that_dies() -> None:
    """The answer goes on elsewhere: every token has its logprobs once, and so has the prompt."""
    async with system(says("one two three"), languages=2) as (router, languages, _):
        for language in languages:
            language.pace = asyncio.Semaphore(2)
        asking = asyncio.create_task(router.chat("hi", logprobs=True, prompt_logprobs=0))
        await router.until(lambda: any(language.served for language in languages))
        first, second = sorted(languages, key=lambda language: not language.served)
        await router.until(lambda: first.pace is not None and first.pace.locked())
        second.pace = None
        await first.kill()
        answer = (await asking).json()
    assert spelled(answer["choices"][0]["logprobs"]["content"]) == "one two three"
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert second.served
