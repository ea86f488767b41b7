"""/v1/completions through a real server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from common.errors import ContextLengthError
from common.pb import language_pb2
from tests.integration.router.peers import EOS
from tests.integration.router.system import Router, events_of, ids_of, says, system


def parrot(generate: language_pb2.Generate) -> list[int]:
    """Says how long the prompt is and which choice this is."""
    return [*ids_of(f" {len(generate.prompt_ids)}:{generate.sampling.choice}"), EOS]


async def ask(router: Router, **body: Any) -> httpx.Response:
    return await router.client.post("/v1/completions", json=body)


async def test_a_prompt_that_only_the_language_server_finds_too_long() -> None:
    async with system(says("Hello.")) as (router, (language,), _):
        language.refusal = ContextLengthError("it is too long")
        error = (await ask(router, prompt="hi")).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


async def test_an_answer() -> None:
    prompt = "<|im_start|>user\nhi<|im_end|>\n"
    async with system(says("Hello.")) as (router, (language,), (encode,)):
        answer = (await ask(router, prompt=prompt, model="other-name")).json()
    assert (answer["object"], answer["model"]) == ("text_completion", "other-name")
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"index": 0, "text": "Hello.", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    generate = language.served[0].generate
    assert list(generate.prompt_ids) == ids_of(prompt), "special tokens that are written out are special"
    assert answer["usage"] == {
        "prompt_tokens": len(ids_of(prompt)),
        "completion_tokens": len(ids_of("Hello.")) + 1,
        "total_tokens": len(ids_of(prompt)) + len(ids_of("Hello.")) + 1,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert not encode.opened


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("one two", [ids_of("one two")]),
        (["one", "two three"], [ids_of("one"), ids_of("two three")]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
async def test_prompts(prompt: Any, ids: list[list[int]]) -> None:
    """Choices are numbered through, those of one prompt beside each other."""
    async with system(parrot) as (router, (language,), _):
        whole = (await ask(router, prompt=prompt, n=2, return_token_ids=True)).json()
        stream = events_of((await ask(router, prompt=prompt, n=2, return_token_ids=True, stream=True)).text)
    choices = whole["choices"]
    expected = [(f" {len(entry)}:{number}", entry) for entry in ids for number in range(2)]
    assert [(choice["text"], choice["prompt_token_ids"]) for choice in choices] == expected
    assert [choice["index"] for choice in choices] == list(range(len(expected)))
    assert [choice["token_ids"] for choice in choices] == [[*ids_of(text), EOS] for text, _ in expected]
    assert whole["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert sorted(list(served.generate.prompt_ids) for served in language.served) == sorted(ids * 4)
    texts = dict.fromkeys(range(len(expected)), "")
    told = [chunk["choices"][0] for chunk in stream[:-1] if "prompt_token_ids" in chunk["choices"][0]]
    assert {choice["index"]: choice["prompt_token_ids"] for choice in told} == dict(enumerate(e for _, e in expected))
    assert len(told) == len(expected)
    finished = []
    for chunk in stream[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            finished.append(choice["index"])
    assert list(texts.values()) == [text for text, _ in expected]
    assert sorted(finished) == list(texts)
    assert stream[-1] == "[DONE]"


@pytest.mark.parametrize("logprobs", [None, 0, 1])
@pytest.mark.parametrize(
    ("prompt", "shown"),
    [("žluť 🌋", ["žluť 🌋"]), (["one", "two"], ["one", "two"]), (ids_of("two three"), ["two three"]), ([5], None)],
)
async def test_echo(prompt: Any, shown: list[str] | None, logprobs: int | None) -> None:
    """The prompt comes first, with logprobs of its own; streamed, it comes before the answer."""
    async with system(says(" kůň.")) as (router, (language,), _):
        fields = {"prompt": prompt, "echo": True, "logprobs": logprobs, "n": 2}
        whole = (await ask(router, **fields)).json()["choices"]
        stream = events_of((await ask(router, **fields, stream=True)).text)[:-1]
        model = router.services.fleet.model
    assert model is not None
    prompts = shown or [model.token_bytes[5].decode(errors="replace")]
    assert [choice["text"] for choice in whole] == [text + " kůň." for text in prompts for _ in range(2)]
    for choice in whole:
        chunks = [chunk["choices"][0] for chunk in stream if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(chunk["text"] for chunk in chunks) == choice["text"]
        assert chunks[0]["text"] == prompts[choice["index"] // 2]
        if logprobs is None:
            assert choice["logprobs"] is None
            continue
        columns: dict[str, list[Any]] = {name: [] for name in choice["logprobs"]}
        for chunk in chunks:
            for name, column in (chunk["logprobs"] or {}).items():
                columns[name] += column
        assert columns == choice["logprobs"]
        prompt_ids = list(language.served[choice["index"]].generate.prompt_ids)
        assert len(columns["tokens"]) == len(prompt_ids) + len(ids_of(" kůň."))
        assert columns["token_logprobs"] == [None] + [-1.0] * (len(columns["tokens"]) - 1)
        assert columns["top_logprobs"][0] is None
        assert all(len(top) == 1 + logprobs for top in columns["top_logprobs"][1:])
        assert columns["text_offset"][len(prompt_ids)] == len(prompts[choice["index"] // 2])


async def test_only_the_prompt() -> None:
    """max_tokens 0: how evaluation harnesses rate a text."""
    async with system(says("ok")) as (router, (language,), _):
        fields = {"prompt": ["one two", "three"], "echo": True, "max_tokens": 0, "logprobs": 1, "stop_token_ids": [5]}
        whole = (await ask(router, **fields)).json()
        stream = events_of((await ask(router, **fields, stream=True)).text)[:-1]
    assert [choice["text"] for choice in whole["choices"]] == ["one two", "three"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["length", "length"]
    assert len(whole["choices"][0]["logprobs"]["tokens"]) == len(ids_of("one two"))
    assert whole["usage"]["completion_tokens"] == 0
    assert {chunk["choices"][0]["text"] for chunk in stream} == {"one two", "three", ""}
    assert [served.generate.sampling.max_tokens for served in language.served] == [1, 1, 1, 1]


async def test_structured_output() -> None:
    async with system(says("yes")) as (router, (language,), _):
        await ask(router, prompt=["a", "b"], guided_choice=["yes", "no"])
        await ask(router, prompt="a")
        refused = await ask(router, prompt="a", guided_choice=["yes"], guided_regex="y")
    *constrained, free = [served.generate.sampling for served in language.served]
    assert all("yes" in sampling.grammar.source for sampling in constrained)
    assert not free.HasField("grammar")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_choice")


async def test_streams() -> None:
    async with system(says("one two three")) as (router, _, _):
        plain = events_of((await ask(router, prompt="hi", stream=True)).text)
        options = {"include_usage": True, "continuous_usage_stats": True}
        counted = events_of((await ask(router, prompt="hi", stream=True, stream_options=options)).text)
        for logprobs in (None, 0):
            fields = {"echo": True, "logprobs": logprobs, "stream": True, "stream_options": options}
            echoed = events_of((await ask(router, prompt="hi", **fields)).text)
            assert all(chunk["usage"] for chunk in echoed[:-1])
    assert "".join(chunk["choices"][0]["text"] for chunk in plain[:-1]) == "one two three"
    assert plain[-2]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in plain[:-1])
    running = [chunk["usage"]["completion_tokens"] for chunk in counted[:-1]]
    assert running == sorted(running)
    assert running[-1] == len(ids_of("one two three")) + 1
    assert counted[-2]["choices"] == []


async def test_what_is_refused() -> None:
    async with system(says("ok")) as (router, (language,), _):
        for body, param in (
            ({}, "prompt"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"prompt": ["a", ""]}, "prompt[1]"),
            ({"prompt": [1, 10**6]}, "prompt"),
            ({"prompt": [[1], [10**6]]}, "prompt[1]"),
            ({"prompt": "a <|image_pad|>"}, "prompt"),
            ({"prompt": "half a pair: \ud83d"}, None),
            ({"prompt": "word " * 5000}, "prompt"),
            ({"prompt": "word " * 100_000}, "prompt"),
            ({"prompt": "hi", "max_tokens": 5000}, "prompt"),
            ({"prompt": "hi", "suffix": "end"}, "suffix"),
            ({"prompt": "hi", "best_of": 2}, "best_of"),
            ({"prompt": "hi", "logit_bias": {"99999": 1}}, "logit_bias"),
            ({"prompt": "hi", "model": "gpt-9"}, "model"),
        ):
            response = await router.client.post("/v1/completions", content=json.dumps(body).encode())
            shown = f"{str(body)[:100]} -> {response.status_code} {response.text}"
            assert response.status_code == (404 if "model" in body else 400), shown
            assert response.json()["error"]["param"] == param, shown
        assert not language.served


async def test_the_official_client() -> None:
    async with system(says("Fine.")) as (router, _, _):
        client = AsyncOpenAI(base_url=f"{router.address}/v1", api_key="none")
        async with client:
            whole = await client.completions.create(model="demo", prompt=["a", "b"], max_tokens=5)
            stream = await client.completions.create(
                model="demo", prompt="a", stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
    assert [choice.text for choice in whole.choices] == ["Fine.", "Fine."]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Fine."
    assert chunks[-1].usage is not None
