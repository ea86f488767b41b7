"""Text through a real HTTP server and real gRPC to a language server that the test scripts."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI

from common.pb import language_pb2
from tests.integration.router.peers import EOS
from tests.integration.router.system import CONFIG, body_of, events_of, ids_of, says, system


async def test_an_answer() -> None:
    async with system(says("Hello, I am a model.")) as (router, (language,), (encode,)):
        response = await router.chat("hi", return_timings=True, seed=7, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1)
    answer = response.json()
    assert response.status_code == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "demo"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello, I am a model.", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "stop", None)
    prompt = ids_of("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    output = ids_of("Hello, I am a model.")
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(output) + 1,
        "total_tokens": len(prompt) + len(output) + 1,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert answer["timings"] == {
        "fetch": 0, "preprocess": 0, "vision": 0, "transfer": 0, "prefill": 2, "decode": 3, "queue": 1
    }  # fmt: skip
    (served,) = language.served
    assert list(served.generate.prompt_ids) == prompt
    assert not served.generate.spans
    assert not encode.opened, "text must not touch the encode server"
    sampling = served.generate.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        7,
        0.5,
        0.9,
        5,
        0.1,
    )
    assert sampling.max_tokens == 4096 - len(prompt)


async def test_a_stream() -> None:
    async with system(says("Hello, I am a model.")) as (router, _, _):
        response = await router.chat("hi", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events_of(response.text)
    assert last == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == "Hello, I am a model."
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in chunks[-1]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_cached_tokens() -> None:
    """As many as there were when it began, not only when it was admitted; of each prompt once."""
    async with system(says("one two three")) as (router, (language,), _):
        language.cached_tokens = (2, 4)
        for fields in ({}, {"n": 2}, {"stop": "two"}):
            usage = (await router.chat("hi", **fields)).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 4
        body = {"prompt": ["hi", "you"], "n": 2}
        usage = (await router.client.post("/v1/completions", json=body)).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 2 * 4


async def test_usage_and_timings_of_a_stream() -> None:
    async with system(says("one two three")) as (router, _, _):
        plain = await router.chat("hi", stream=True, return_timings=True)
        counted = await router.chat(
            "hi",
            stream=True,
            return_timings=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
        )
    *_, finish, done = events_of(plain.text)
    assert done == "[DONE]"
    assert finish["timings"]["prefill"] == 2
    role, first, *_, finish, usage, done = events_of(counted.text)
    assert role["usage"]["prompt_tokens"] == usage["usage"]["prompt_tokens"]
    assert role["usage"]["completion_tokens"] <= first["usage"]["completion_tokens"]
    assert first["usage"]["completion_tokens"] >= 1
    assert "timings" not in finish
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(ids_of("one two three")) + 1
    assert usage["timings"]["decode"] == 3


async def test_the_official_client() -> None:
    async with system(says("Fine, thanks.")) as (router, _, _):
        client = AsyncOpenAI(base_url=f"{router.address}/v1", api_key="none")
        async with client:
            answer = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "How are you?"}]
            )
            stream = await client.chat.completions.create(
                model="other-name",
                messages=[{"role": "user", "content": "How are you?"}],
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            models = [model.id async for model in client.models.list()]
            card = await client.models.retrieve("demo")
    assert answer.choices[0].message.content == "Fine, thanks."
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Fine, thanks."
    assert chunks[-1].usage is not None
    assert models == ["demo", "other-name"]
    assert card.id == "demo"


async def test_choices() -> None:
    def script(generate: language_pb2.Generate) -> list[int]:
        return [*ids_of(f"answer {generate.sampling.choice}"), EOS]

    async with system(script) as (router, (language,), _):
        whole = await router.chat("hi", n=3, seed=5)
        stream = await router.chat("hi", n=2, stream=True)
    assert [choice["message"]["content"] for choice in whole.json()["choices"]] == ["answer 0", "answer 1", "answer 2"]
    assert [served.generate.sampling.seed for served in language.served[:3]] == [5, 5, 5]
    texts = {0: "", 1: ""}
    finishes = []
    for chunk in events_of(stream.text)[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            finishes.append(choice["index"])
    assert texts == {0: "answer 0", 1: "answer 1"}
    assert sorted(finishes) == [0, 1]


async def test_ends() -> None:
    """Length, stop strings, stop tokens, and what is shown of them."""
    text = "one two three four"
    word = ids_of(" three")[0]
    async with system(says(text)) as (router, (language,), _):

        async def ask(**fields: Any) -> dict[str, Any]:
            choice: dict[str, Any] = (await router.chat("hi", **fields)).json()["choices"][0]
            return {**choice, **choice["message"]}

        short = await ask(max_tokens=2)
        assert short["finish_reason"] == "length"
        assert ids_of(short["content"]) == ids_of(text)[:2]
        language.pace = asyncio.Semaphore(len(ids_of(text)) - 1)  # the answer must not be complete by itself
        stopped = await ask(stop=["o thr", "zzz"])
        assert (stopped["content"], stopped["finish_reason"], stopped["stop_reason"]) == ("one tw", "stop", "o thr")
        await asyncio.wait_for(language.served[-1].aborted.wait(), 5)
        language.pace = None
        included = await ask(stop="o thr", include_stop_str_in_output=True)
        assert included["content"] == "one two thr"
        late = await ask(stop="t", min_tokens=len(ids_of(text)))
        assert late["content"] == text
        token = await ask(stop_token_ids=[word])
        assert text.startswith(token["content"])
        assert "three" not in token["content"]
        assert token["stop_reason"] == word
        endless = await ask(ignore_eos=True, skip_special_tokens=False)
        assert endless["content"] == text + "<|im_end|>"
        assert endless["finish_reason"] == "length"


async def test_characters_that_tokens_split() -> None:
    text = "žluťoučký 🌋 kůň"
    assert len(ids_of(text)) > len(text)
    async with system(says(text)) as (router, _, _):
        stream = await router.chat("hi", stream=True)
        cut = await router.chat("hi", max_tokens=1)
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in events_of(stream.text)[:-1]]
    assert "".join(pieces) == text
    assert "�" not in cut.text


async def test_a_client_that_leaves() -> None:
    """In the middle of a stream, and before it began."""
    async with system(says("one two three four five six")) as (router, (language,), _):
        language.pace = asyncio.Semaphore(2)
        async with router.client.stream("POST", "/v1/chat/completions", json=body_of("hi", stream=True)) as response:
            lines = response.aiter_lines()
            while "one" not in await anext(lines):
                pass
            assert router.metric("epd_requests_running") == 1
        await asyncio.wait_for(language.served[0].aborted.wait(), 5)
        waiting = asyncio.create_task(router.chat("hi"))
        served = await language.request(2)
        waiting.cancel()
        await asyncio.wait_for(served.aborted.wait(), 5)
        await router.until(lambda: router.metric("epd_requests_aborted_total") == 2)
        assert router.metric("epd_requests_running") == 0
        assert router.services.budget.used == 0


@pytest.mark.parametrize(("tokens", "said"), [(0, ""), (1, "one")])
async def test_a_silent_stream_is_kept_alive(tokens: int, said: str) -> None:
    """While its prompt is worked on, and in the middle of the answer."""

    def text(lines: list[str]) -> str:
        chunks = [chunk for chunk in events_of("\n".join(lines)) if chunk != "[DONE]"]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    async with system(says("one two"), config=replace(CONFIG, keep_alive_seconds=0.05)) as (router, (language,), _):
        language.pace = asyncio.Semaphore(tokens)
        async with router.client.stream("POST", "/v1/chat/completions", json=body_of("hi", stream=True)) as response:
            lines, seen = response.aiter_lines(), [""]
            async with asyncio.timeout(5):
                while seen[-1] != ": keep-alive" or text(seen) != said:
                    seen.append(await anext(lines))
            for _ in range(3):
                language.pace.release()
            rest = [line async for line in lines]
    assert text(seen + rest) == "one two"
    assert rest[-2:] == ["data: [DONE]", ""]


async def test_many_at_once() -> None:
    def script(generate: language_pb2.Generate) -> list[int]:
        return [*ids_of(f"answer to {len(generate.prompt_ids)}"), EOS]

    async with system(script, languages=2) as (router, languages, _):
        prompts = ["x" * (1 + i) for i in range(32)]
        responses = await asyncio.gather(*(router.chat(prompt, stream=True) for prompt in prompts))
        answers = [
            "".join(
                chunk["choices"][0]["delta"].get("content", "")
                for chunk in events_of(response.text)
                if chunk != "[DONE]"
            )
            for response in responses
        ]
    expected = [
        f"answer to {len(ids_of(f'<|im_start|>user{chr(10)}{p}<|im_end|>{chr(10)}<|im_start|>assistant{chr(10)}'))}"
        for p in prompts
    ]
    assert answers == expected
    assert all(peer.served for peer in languages), "both servers work"


async def test_a_conversation_stays_at_its_server() -> None:
    async with system(says("ok"), languages=3) as (router, languages, _):
        for turn in range(4):
            messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "first"}]
            messages += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "again"}] * turn
            response = await router.client.post("/v1/chat/completions", json={"messages": messages})
            assert response.status_code == 200
    assert sorted(len(peer.served) for peer in languages) == [0, 0, 4]


async def test_token_ids() -> None:
    async with system(says("one two")) as (router, (language,), _):
        whole = (await router.chat("hi", return_token_ids=True)).json()
        stream = events_of((await router.chat("hi", return_token_ids=True, stream=True)).text)[:-1]
    expected = [*ids_of("one two"), EOS]
    assert whole["choices"][0]["token_ids"] == expected
    assert whole["prompt_token_ids"] == list(language.served[0].generate.prompt_ids)
    assert [token for chunk in stream for token in chunk["choices"][0].get("token_ids", [])] == expected
    assert stream[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in chunk for chunk in stream[1:])


async def test_roles_and_templates() -> None:
    """Developer is system, tool calls and their answers are shown, the last message may be continued."""
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
        {"role": "assistant", "content": "It is"},
    ]
    async with system(says("sunny")) as (router, (language,), _):
        body = {"messages": messages, "continue_final_message": True}
        response = await router.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "weather", "arguments": {"at": 1}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        "<tool_response>\nsun\n</tool_response><|im_end|>\n<|im_start|>assistant\nIt is"
    )
    assert list(language.served[0].generate.prompt_ids) == ids_of(expected)


async def test_service_paths() -> None:
    async with system(says("ok")) as (router, _, _):
        client = router.client
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/ready")).json() == {"ready": True, "text": True, "image": True, "waiting_for": []}
        assert (await client.get("/ready?for=text")).status_code == 200
        assert (await client.get("/ready?for=tea")).status_code == 400
        assert (await client.get("/version")).json()["version"]
        await router.chat("hi")
        metrics = (await client.get("/metrics")).text
        assert "epd_requests_finished_total 1.0" in metrics
        assert "epd_time_to_first_token_seconds_count 1.0" in metrics
        assert 'epd_request_seconds_count{endpoint="chat completion",outcome="finished"} 1.0' in metrics
        card = (await client.get("/v1/models/demo")).json()
        assert (card["id"], card["max_model_len"]) == ("demo", 4096)
        schema = (await client.get("/openapi.json")).json()
        assert "/v1/chat/completions" in schema["paths"]
        referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
        assert "ChatRequest" in referred
        assert referred <= set(schema["components"]["schemas"])
        response = await client.get("/health", headers={"x-request-id": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        forged = await client.get("/health", headers={"x-request-id": "a b\tc"})
        assert forged.headers["x-request-id"] != "a b\tc"


async def test_null_means_not_given() -> None:
    async with system(says("ok")) as (router, _, _):
        body = body_of("hi", stop=None, max_tokens=None, stream_options=None, tools=None, temperature=None, stream=None)
        response = await router.client.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert response.status_code == 200
