"""/v1/messages over servers that the test scripts, read by the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from tests.integration.router.peers import EOS, INFO
from tests.integration.router.system import CONFIG, TOKENIZER, Router, events_of, ids_of, says, system

HI = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aW1hZ2U="}}
LOOK = {
    "name": "look",
    "description": "Looks somewhere.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
HEADERS = {"x-api-key": "secret", "anthropic-version": "2023-06-01"}


def client_of(router: Router, key: str = "none") -> AsyncAnthropic:
    return AsyncAnthropic(base_url=router.address, api_key=key, max_retries=0)


async def both(client: AsyncAnthropic, **fields: Any) -> Message:
    """The answer whole, which has to be what a stream of it adds up to."""
    fields = {"model": "demo", "max_tokens": 100, "messages": HI, **fields}
    whole = await client.messages.create(**fields)
    async with client.messages.stream(**fields) as stream:
        added_up = await stream.get_final_message()
    assert _timeless(added_up) == _timeless(whole)
    return whole


def _timeless(message: Message) -> dict[str, Any]:
    """Without names that are new every time, and what the client itself adds."""
    fields = message.to_dict()
    for block in fields["content"]:  # type: ignore[attr-defined]
        block.pop("parsed_output", None)
        block.pop("id", None)
    return {name: value for name, value in fields.items() if name != "id"}


async def raw_stream(router: Router, **fields: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of events, and their data."""
    body = {"model": "demo", "max_tokens": 100, "messages": HI, "stream": True, **fields}
    response = await router.client.post("/v1/messages", json=body)
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    return names, events_of(response.text)


async def test_text() -> None:
    async with system(says("Fine, thanks.")) as (router, (language,), (encode,)), client_of(router) as client:
        sampling = {"temperature": 0.5, "top_k": 5, "seed": 3}  # fields that the newest client has no names for
        message = await both(client, system="Be brief.", metadata={"user_id": "u"}, extra_body=sampling)
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Fine, thanks.", "citations": None}
    ]
    assert (message.role, message.model, message.stop_reason) == ("assistant", "demo", "end_turn")
    assert message.id == f"msg_{message._request_id}"
    expected = ids_of(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    for served in language.served:
        assert list(served.generate.prompt_ids) == expected
        sent = served.generate.sampling
        assert (sent.max_tokens, sent.temperature, sent.top_k, sent.seed) == (100, 0.5, 5, 3)
    assert not encode.opened
    assert message.usage.input_tokens == len(expected)
    assert message.usage.output_tokens == len(ids_of("Fine, thanks.")) + 1


async def test_a_conversation_with_an_image() -> None:
    asked = {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}
    async with system(says("a cat")) as (router, (language,), (encode,)), client_of(router) as client:
        first = await both(client, messages=[asked])
        answer = {"role": "assistant", "content": [block.to_dict() for block in first.content]}
        await both(client, messages=[asked, answer, {"role": "user", "content": "Sure?"}])
    assert encode.uploads == [b"image"]
    generate = language.served[-1].generate
    assert [span.rows for span in generate.spans] == [4]
    follow_up = "a cat<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    assert list(generate.prompt_ids)[-len(ids_of(follow_up)) :] == ids_of(follow_up)


async def test_tools() -> None:
    """A call, its result with an image, and the answer to that."""
    said = 'I look.<tool_call>\n{"name": "look", "arguments": {"at": "the sky"}}\n</tool_call>'
    asked = {"role": "user", "content": "Look!"}
    async with system(says(said)) as (router, (language,), (encode,)), client_of(router) as client:
        called = await both(client, messages=[asked], tools=[LOOK])
        text, call = called.content
        assert text.type == "text"
        assert text.text == "I look."
        assert call.type == "tool_use"
        assert (call.name, call.input, called.stop_reason) == ("look", {"at": "the sky"}, "tool_use")
        language.script = says("It is blue.")
        seen = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "seen"}, IMAGE]}
        answered = [
            asked,
            {"role": "assistant", "content": [block.to_dict() for block in called.content]},
            {"role": "user", "content": [seen]},
        ]
        answer = await both(client, messages=answered, tools=[LOOK])
        language.script = says(said)
        forced = await both(client, messages=[asked], tools=[LOOK], tool_choice={"type": "tool", "name": "look"})
    assert forced.stop_reason == "tool_use"
    assert answer.content[0].text == "It is blue."  # type: ignore[union-attr]
    assert encode.uploads == [b"image"]
    prompt = list(language.served[2].generate.prompt_ids)
    assert len(language.served[2].generate.spans) == 1
    told = ids_of(
        '<|im_start|>assistant\nI look.\n<tool_call>\n{"name": "look", "arguments": {"at": "the sky"}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nseen"
    )
    assert any(prompt[i : i + len(told)] == told for i in range(len(prompt)))
    assert not language.served[2].generate.sampling.HasField("grammar")
    assert language.served[-1].generate.sampling.HasField("grammar")


async def test_what_tools_and_answers_are_held_to() -> None:
    schema = {"type": "object", "properties": {"zebra": {"type": "integer"}}}
    output = {"format": {"type": "json_schema", "schema": schema}}
    strict = {**LOOK, "strict": True}
    async with system(says("{}")) as (router, (language,), _), client_of(router) as client:
        for fields, words in (
            ({"output_config": output}, '"zebra"'),
            ({"tools": [strict]}, '"at"'),
            ({"tools": [LOOK]}, None),
        ):
            await both(client, **fields)
            for served in language.served[-2:]:
                sampling = served.generate.sampling
                assert sampling.HasField("grammar") == (words is not None)
                assert words is None or words in sampling.grammar.source


async def test_a_tool_that_failed() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    async with system(says("ok")) as (router, (language,), _), client_of(router) as client:
        for is_error in (True, False):
            result = {"type": "tool_result", "tool_use_id": "t1", "content": "fog", "is_error": is_error}
            turns = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
            await both(client, messages=turns)
    prompts = [TOKENIZER.decode(list(served.generate.prompt_ids)) for served in language.served]
    assert ["<tool_response>\nError: fog" in prompt for prompt in prompts] == [True, True, False, False]


async def test_thinking() -> None:
    said = "<think>\nA sky is blue.\n</think>\n\nBlue."
    async with system(says(said)) as (router, (language,), _), client_of(router) as client:
        enabled = {"type": "enabled", "budget_tokens": 1024}
        answer = await both(client, max_tokens=2000, thinking=enabled)
        hidden = await both(client, max_tokens=2000, thinking={**enabled, "display": "omitted"})
        turn = {"role": "assistant", "content": [block.to_dict() for block in answer.content]}
        await both(client, messages=[*HI, turn, {"role": "user", "content": "Sure?"}])
        off = await both(client, thinking={"type": "disabled"})
    thinking, text = answer.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, text.text) == ("A sky is blue.", "Blue.")  # type: ignore[union-attr]
    assert thinking.signature
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens > 0
    assert [block.type for block in hidden.content] == ["text"]
    assert len(language.served) == 8
    assert off.content[-1].text.endswith("Blue.")  # type: ignore[union-attr]


async def test_an_answer_that_has_begun() -> None:
    async with system(says(" sky is blue.")) as (router, (language,), _), client_of(router) as client:
        answer = await both(client, messages=[*HI, {"role": "assistant", "content": "The"}])
    assert answer.content[0].text == " sky is blue."  # type: ignore[union-attr]
    end = ids_of("<|im_start|>assistant\nThe")
    assert list(language.served[0].generate.prompt_ids)[-len(end) :] == end


async def test_ends() -> None:
    async with system(says("one two three four")) as (router, (language,), _), client_of(router) as client:
        short = await both(client, max_tokens=2)
        stopped = await both(client, stop_sequences=["zzz", "o thr"])
        language.script = lambda generate: [EOS]
        empty = await both(client)
        language.script = lambda generate: [5] * generate.sampling.max_tokens
        full = await client.messages.create(model="demo", max_tokens=5000, messages=HI)  # type: ignore[arg-type]
    assert short.stop_reason == "max_tokens"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "o thr")
    assert stopped.content[0].text == "one tw"  # type: ignore[union-attr]
    assert [block.text for block in empty.content] == [""]  # type: ignore[union-attr]
    assert full.stop_reason == "model_context_window_exceeded"
    assert full.usage.input_tokens + full.usage.output_tokens == INFO.max_model_len


async def test_the_stream_as_it_is_sent() -> None:
    async with system(says("ok")) as (router, _, _):
        names, events = await raw_stream(router, return_timings=True)
    assert names == [event["type"] for event in events]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["content"] == []
    assert events[-2]["usage"]["output_tokens"] == len(ids_of("ok")) + 1
    assert events[-2]["timings"]["prefill"] == 2


async def test_a_silent_stream_is_kept_alive() -> None:
    config = replace(CONFIG, keep_alive_seconds=0.05)
    async with system(says("one two"), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(1)
        body = {"model": "demo", "max_tokens": 9, "messages": HI, "stream": True}
        async with router.client.stream("POST", "/v1/messages", json=body) as response, asyncio.timeout(5):
            lines = response.aiter_lines()
            await _until(lines, "event: content_block_delta")
            await _until(lines, "event: ping")
            for _ in range(3):
                language.pace.release()
            await _until(lines, "event: message_stop")


async def _until(lines: AsyncIterator[str], wanted: str) -> None:
    while await anext(lines) != wanted:
        pass


async def test_counting() -> None:
    """The same as a message has, images included, and nothing is generated."""
    content = [{"type": "text", "text": "What is it?"}, IMAGE]
    async with system(says("ok")) as (router, (language,), (encode,)), client_of(router) as client:
        fields: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "user", "content": content}],
            "system": "Be brief.",
            "tools": [LOOK],
        }
        count = await client.messages.count_tokens(**fields)
        assert not language.served
        message = await client.messages.create(max_tokens=5, **fields)
        long = await client.messages.count_tokens(model="demo", messages=[{"role": "user", "content": "x " * 5000}])
        await router.until(lambda: router.services.budget.used == 0)
        assert router.metric("epd_requests_running") == 0
    assert count.input_tokens == message.usage.input_tokens
    assert len(language.served[0].generate.spans) == 1
    assert long.input_tokens > INFO.max_model_len
    assert encode.uploads[0] == b"image"


async def test_errors() -> None:
    bad = {**IMAGE, "source": {**IMAGE["source"], "data": "YmFk"}}  # type: ignore[dict-item]
    async with system(says("ok")) as (router, _, _), client_of(router) as client:

        async def fault(expected: type[anthropic.APIStatusError], **fields: Any) -> str:
            with pytest.raises(expected) as caught:
                await client.messages.create(**{"model": "demo", "max_tokens": 5, "messages": HI, **fields})
            body: Any = caught.value.body
            assert body["type"] == "error"
            assert body["request_id"] == caught.value.response.headers["x-request-id"]
            return f"{body['error']['type']} {body['error']['message']}"

        wrong = "invalid_request_error"
        shown = await fault(anthropic.BadRequestError, messages=[{"role": "user", "content": [bad]}], system="s")
        assert shown.startswith(f"{wrong} messages[0].content[0]: ")
        result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a"}, bad]}
        shown = await fault(anthropic.BadRequestError, messages=[{"role": "user", "content": [result]}])
        assert shown.startswith(f"{wrong} messages[0].content[0].content[1]: ")
        shown = await fault(anthropic.BadRequestError, messages=[{"role": "user", "content": "x " * 5000}])
        assert "maximum context length" in shown
        assert (await fault(anthropic.BadRequestError, max_tokens=0)).startswith(f"{wrong} max_tokens: ")
        assert (await fault(anthropic.NotFoundError, model="other")).startswith("not_found_error ")
        for method, path, status, kind in (
            ("GET", "/v1/messages", 405, wrong),
            ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ):
            response = await router.client.request(method, path)
            assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for content, headers in ((b"{", {}), (b"\xff", {}), (b"[]", {}), (b"{}", {"content-type": "text/plain"})):
                response = await router.client.post(path, content=content, headers=headers)
                assert 400 <= response.status_code < 500
                assert response.json()["error"]["type"] == wrong
        response = await router.client.post("/v1/messages", json={"max_tokens": 5, "messages": HI, "zebra": 1})
        assert response.headers["x-ignored-fields"] == "zebra"


async def test_keys() -> None:
    config = replace(CONFIG, api_key=("secret",))
    async with system(says("ok"), config=config) as (router, _, _):
        async with client_of(router, "secret") as client:
            assert (await both(client)).stop_reason == "end_turn"
        body = {"model": "demo", "max_tokens": 5, "messages": HI}
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for headers in ({}, {"x-api-key": "wrong"}):
                response = await router.client.post(path, json=body, headers=headers)
                assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
            assert (await router.client.post(path, json=body, headers=HEADERS)).status_code == 200
            bearer = {"authorization": "Bearer secret"}
            assert (await router.client.post(path, json=body, headers=bearer)).status_code == 200
        assert (await router.client.get("/v1/models", headers=HEADERS)).status_code == 200


async def test_a_stream_that_fails() -> None:
    config = replace(CONFIG, failover_seconds=0.1)
    async with system(says("one two three"), config=config) as (router, (language,), _), client_of(router) as client:
        language.pace = asyncio.Semaphore(2)
        stream = await client.messages.create(model="demo", max_tokens=9, messages=HI, stream=True)  # type: ignore[arg-type]

        async def read() -> None:
            async for event in stream:
                if event.type == "content_block_delta":
                    await language.kill()

        with pytest.raises(anthropic.APIStatusError) as caught:
            await read()
    assert caught.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]


async def test_overload() -> None:
    config = replace(CONFIG, max_requests=1)
    async with system(says("one two"), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(0)
        body = {"model": "demo", "max_tokens": 9, "messages": HI}
        first = asyncio.create_task(router.client.post("/v1/messages", json=body))
        await language.request()
        refused = await router.client.post("/v1/messages", json=body)
        for _ in range(10):
            language.pace.release()
        assert (await first).status_code == 200
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert refused.headers["retry-after"] == "1"
