"""/v1/responses over servers that the test scripts, read by the official client."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response
from pydantic import BaseModel

from tests.integration.router.peers import EOS
from tests.integration.router.system import CONFIG, Router, events_of, ids_of, says, system

IMAGE = "data:image/png;base64,aW1hZ2U="
LOOK = {
    "type": "function",
    "name": "look",
    "description": "Looks somewhere.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    "strict": False,
}


def client_of(router: Router) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{router.address}/v1", api_key="none", max_retries=0)


async def both(client: AsyncOpenAI, **fields: Any) -> Response:
    """The answer whole, which has to be what a stream of it adds up to."""
    whole = await client.responses.create(model="demo", **fields)
    async with client.responses.stream(model="demo", **fields) as stream:
        texts: dict[tuple[str, int], str] = {}
        async for event in stream:
            if event.type.endswith(".delta"):
                key = (event.type, event.output_index)
                texts[key] = texts.get(key, "") + event.delta
            final = getattr(event, "response", None)
    assert final is not None
    assert (final.status, final.incomplete_details) == (whole.status, whole.incomplete_details)
    assert final.usage == whole.usage
    assert [_timeless(item) for item in final.output] == [_timeless(item) for item in whole.output]
    told = [_text(item) for item in final.output]
    assert [texts.get(key, "") for key in sorted(texts, key=lambda key: key[1])] == [text for text in told if text]
    return whole


def _timeless(item: Any) -> dict[str, Any]:
    """Without names that are new every time, and what the client itself adds."""
    fields: dict[str, Any] = item.to_dict()
    for part in fields.get("content", []):
        part.pop("parsed", None)
    return {name: value for name, value in fields.items() if name not in ("id", "call_id", "parsed_arguments")}


def _text(item: Any) -> str:
    match item.type:
        case "message":
            return "".join(part.text for part in item.content)
        case "reasoning":
            return "".join(part.text for part in (item.content or item.summary))
        case _:
            return str(item.arguments)


async def test_text() -> None:
    async with system(says("Fine, thanks.")) as (router, (language,), (encode,)), client_of(router) as client:
        answer = await both(
            client, input="How are you?", instructions="Be brief.", temperature=0.5, extra_body={"seed": 3}
        )
    assert answer.output_text == "Fine, thanks."
    assert answer.status == "completed"
    assert answer.id.startswith("resp_")
    assert (answer.instructions, answer.temperature) == ("Be brief.", 0.5)
    expected = ids_of(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    for served in language.served:
        assert list(served.generate.prompt_ids) == expected
        assert served.generate.sampling.seed == 3
    assert not encode.opened
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(expected)
    assert answer.usage.output_tokens == len(ids_of("Fine, thanks.")) + 1


async def test_a_conversation_with_an_image() -> None:
    content = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": IMAGE, "detail": "low"},
    ]
    async with system(says("a cat")) as (router, (language,), (encode,)), client_of(router) as client:
        first = await both(client, input=[{"role": "user", "content": content}])
        history = [{"role": "user", "content": content}, *[item.model_dump() for item in first.output]]
        await both(client, input=[*history, {"role": "user", "content": "Sure?"}])
    assert first.output_text == "a cat"
    assert encode.opened[0].options.max_pixels == 512 * 512
    assert encode.uploads == [b"image"]
    generate = language.served[-1].generate
    assert [span.rows for span in generate.spans] == [4]
    follow_up = "a cat<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    assert list(generate.prompt_ids)[-len(ids_of(follow_up)) :] == ids_of(follow_up)
    assert first.usage is not None
    assert first.usage.input_tokens_details.image_tokens == 4  # type: ignore[attr-defined]


async def test_tools() -> None:
    """A call, its result with an image, and the answer to that."""
    said = 'I look.<tool_call>\n{"name": "look", "arguments": {"at": "the sky"}}\n</tool_call>'
    async with system(says(said)) as (router, (language,), (encode,)), client_of(router) as client:
        called = await both(client, input="Look!", tools=[LOOK])
        message, call = called.output
        assert (message.type, call.type) == ("message", "function_call")
        assert called.output_text == "I look."
        assert (call.name, call.arguments) == ("look", '{"at": "the sky"}')  # type: ignore[union-attr]
        language.script = says("It is blue.")
        seen = [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": IMAGE}]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": seen}  # type: ignore[union-attr]
        items = [{"role": "user", "content": "Look!"}, *[item.model_dump() for item in called.output], result]
        answer = await both(client, input=items, tools=[LOOK])
        forced = await both(client, input="Look!", tools=[LOOK], tool_choice={"type": "function", "name": "look"})
    assert answer.output_text == "It is blue."
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
    assert forced.tool_choice.name == "look"  # type: ignore[union-attr]


@pytest.mark.parametrize("summary", [None, "auto"])
async def test_reasoning(summary: str | None) -> None:
    said = "<think>\nA sky is blue.\n</think>\n\nBlue."
    async with system(says(said)) as (router, (language,), _), client_of(router) as client:
        answer = await both(client, input="Which colour?", reasoning={"effort": "low", "summary": summary})
        items = [{"role": "user", "content": "Which colour?"}, *[item.model_dump() for item in answer.output]]
        await both(client, input=[*items, {"role": "user", "content": "Sure?"}])
    reasoning, _ = answer.output
    assert reasoning.type == "reasoning"
    assert _text(reasoning) == "A sky is blue."
    assert bool(reasoning.summary) == (summary is not None)
    assert answer.output_text == "Blue."
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert len(language.served) == 4


async def test_structured_output() -> None:
    class Sky(BaseModel):
        colour: str

    async with system(says('{"colour": "blue"}')) as (router, (language,), _), client_of(router) as client:
        answer = await client.responses.parse(model="demo", input="Which colour?", text_format=Sky)
    assert answer.output_parsed == Sky(colour="blue")
    assert language.served[0].generate.sampling.HasField("grammar")


async def test_logprobs() -> None:
    async with system(says("žluťoučký kůň")) as (router, _, _), client_of(router) as client:
        answer = await both(client, input="hi", include=["message.output_text.logprobs"], top_logprobs=2)
        plain = await both(client, input="hi")
    (message,) = answer.output
    (part,) = message.content  # type: ignore[union-attr]
    text = b"".join(bytes(entry.bytes) for entry in part.logprobs)  # type: ignore[union-attr]
    assert text.decode() == "žluťoučký kůň"
    assert {len(entry.top_logprobs) for entry in part.logprobs} == {2}  # type: ignore[union-attr]
    assert not plain.output[0].content[0].logprobs  # type: ignore[union-attr]


async def test_ends() -> None:
    async with system(says("one two three four")) as (router, (language,), _), client_of(router) as client:
        short = await both(client, input="hi", max_output_tokens=2)
        stopped = await both(client, input="hi", extra_body={"stop": "o thr"})
        language.script = lambda generate: [EOS]
        empty = await both(client, input="hi")
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    assert stopped.output_text == "one tw"
    assert (empty.status, empty.output_text) == ("completed", "")


async def test_the_stream_as_it_is_sent() -> None:
    """Numbered events with their names, no [DONE]; timings if they are asked for."""
    async with system(says("ok")) as (router, _, _):
        body = {"model": "demo", "input": "hi", "stream": True, "return_timings": True}
        response = await router.client.post("/v1/responses", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = events_of(response.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert events[-1]["response"]["timings"]["prefill"] == 2


async def test_errors() -> None:
    bad = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,YmFk"}]}]
    async with system(says("ok")) as (router, _, _), client_of(router) as client:

        async def fault(**fields: Any) -> tuple[str | None, str | None]:
            with pytest.raises(BadRequestError) as caught:
                await client.responses.create(**{"model": "demo", "input": "hi", **fields})
            return caught.value.param, caught.value.code

        assert await fault(input=bad, instructions="Be brief.") == ("input[0].content[0]", "invalid_media")
        assert await fault(input="x " * 5000) == ("input", "context_length_exceeded")
        assert await fault(input="x" * 10_000_000) == ("input", "context_length_exceeded")
        assert await fault(max_output_tokens=5000) == ("input", "context_length_exceeded")
        assert (await fault(previous_response_id="resp_1"))[0] == "previous_response_id"
        assert (await fault(tools=[{"type": "web_search"}]))[0] == "tools[0].type"
        for missing in (
            client.responses.create(model="other", input="hi"),
            client.responses.retrieve("resp_1"),
            client.responses.delete("resp_1"),
        ):
            with pytest.raises(NotFoundError):
                await missing
        body = {"input": [{"role": "user", "content": "hi", "stripes": 1}], "instructions": "i", "zebra": 1}
        response = await router.client.post("/v1/responses", json=body)
        assert response.status_code == 200
        assert response.headers["x-ignored-fields"] == "zebra, input[0].stripes"


async def test_strict_fields_are_named_where_the_client_wrote_them() -> None:
    config = replace(CONFIG, strict_fields=True)
    async with system(says("ok"), config=config) as (router, _, _):
        body = {"input": [{"role": "user", "content": "hi", "stripes": 1}], "instructions": "i"}
        response = await router.client.post("/v1/responses", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0].stripes"


async def test_a_stream_that_fails() -> None:
    config = replace(CONFIG, failover_seconds=0.1)
    async with system(says("one two three"), config=config) as (router, (language,), _), client_of(router) as client:
        language.pace = asyncio.Semaphore(2)
        events = []
        stream = await client.responses.create(model="demo", input="hi", stream=True)
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                await language.kill()
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    failed = events[-1].response  # type: ignore[union-attr]
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "one two three".startswith(failed.output_text)
    assert failed.output_text
