"""Everything that a client can get wrong: its own status, the field that is to blame, and nobody else disturbed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.router.system import CONFIG, Router, body_of, says, system
from tests.integration.router.test_media import data_uri, image, text
from tests.integration.router.web import web_server

USER = {"role": "user", "content": "hi"}


def part(**fields: Any) -> dict[str, Any]:
    return body_of([fields])


def picture(url: str) -> dict[str, Any]:
    return body_of([{"type": "image_url", "image_url": {"url": url}}])


BODIES: list[tuple[Any, str | None]] = [
    ([], None),
    ("text", None),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0]"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [USER, {"role": "user", "content": [{"type": "text"}]}]}, "messages[1].content[0].text"),
    ({"messages": [{"role": "user", "content": "x", "refusal": "no"}]}, "messages[0].refusal"),
    (part(type="smell", smell="roses"), "messages[0].content[0]"),
    (part(type="image_url"), "messages[0].content[0].image_url"),
    (part(type="image_url", image_url={}), "messages[0].content[0].image_url.url"),
    (part(type="image_url", image_url={"url": 7}), "messages[0].content[0].image_url.url"),
    (part(type="image_url", image_url={"url": "data:,", "detail": "x"}), "messages[0].content[0].image_url.detail"),
    (part(type="input_audio", input_audio={"data": "", "format": "wav"}), "messages[0].content[0]"),
    (part(type=[], text="hi"), "messages[0].content[0]"),
    (part(smell="roses"), "messages[0].content[0]"),
    (part(text=7), "messages[0].content[0].text"),
    (part(image_url={"url": 7}), "messages[0].content[0].image_url.url"),
    (part(type="image_url", image_url={"url": "data:,"}, uuid=7), "messages[0].content[0].uuid"),
    (part(type="image_url", image_url={"url": "data:,"}, detail="x"), "messages[0].content[0].detail"),
    (part(type="image_url", image_url={"object": {}, "url": 7}), "messages[0].content[0].image_url.url"),
    (part(type="input_image", image_url="data:,", detail=7), "messages[0].content[0].detail"),
    (part(type="video_url", video_url={"url": "data:,"}, uuid=""), "messages[0].content[0].uuid"),
    (part(type="video", video=["data:,"], fps=0), "messages[0].content[0].fps"),
    (part(type="video", video=["data:,"], uuid=7), "messages[0].content[0].uuid"),
    (part(type="video", video=[]), "messages[0].content[0].video"),
    ({"messages": [{"role": "user", "content": {"list": 1}}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "content": [image(b"good")]}, USER]}, "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "content": "a", "refusal": 5}, USER]}, "messages[0].refusal"),
    (body_of("hi", temperature="hot"), "temperature"),
    (body_of("hi", temperature=-1), "temperature"),
    (body_of("hi", temperature=True), "temperature"),
    (body_of("hi", top_p=0), "top_p"),
    (body_of("hi", top_p=1.5), "top_p"),
    (body_of("hi", top_k=-2), "top_k"),
    (body_of("hi", min_p=2), "min_p"),
    (body_of("hi", n=0), "n"),
    (body_of("hi", n=10**6), "n"),
    (body_of("hi", n=1.5), "n"),
    (body_of("hi", max_tokens=0), "max_tokens"),
    (body_of("hi", max_tokens="9"), "max_tokens"),
    (body_of("hi", max_tokens=5, min_tokens=6), "min_tokens"),
    (body_of("hi", seed=2**65), "seed"),
    (body_of("hi", stop=""), "stop"),
    (body_of("hi", stop=["a", ""]), "stop"),
    (body_of("hi", stop=["a"] * 100), "stop"),
    (body_of("hi", stop=[1]), "stop[0]"),
    (body_of("hi", stop="a" * 501), "stop"),
    (body_of("hi", stop_token_ids=[-1]), "stop_token_ids[0]"),
    (body_of("hi", stop_token_ids=[10**6]), "stop_token_ids"),
    (body_of("hi", stream="yes"), "stream"),
    (body_of("hi", stream_options={"include_usage": True}), "stream_options"),
    (body_of("hi", stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage"),
    (body_of("hi", logprobs=5), "logprobs"),
    (body_of("hi", top_logprobs=5), "top_logprobs"),
    (body_of("hi", logprobs=True, top_logprobs=21), "top_logprobs"),
    (body_of("hi", prompt_logprobs=1, stream=True), "prompt_logprobs"),
    (body_of("hi", logit_bias={"word": 1}), "logit_bias"),
    (body_of("hi", logit_bias={"1252": 1}), "logit_bias"),
    (body_of("hi", allowed_token_ids=[1252]), "allowed_token_ids"),
    (body_of("hi", bad_words=[""]), "bad_words[0]"),
    (body_of("hi", presence_penalty=2.5), "presence_penalty"),
    (body_of("hi", repetition_penalty=0), "repetition_penalty"),
    (body_of("hi", response_format={"type": "json"}), "response_format"),
    (body_of("hi", tools=[{"type": "function"}]), "tools[0].function"),
    (body_of("hi", tool_choice="required"), "tool_choice"),
    (body_of("hi", guided_json={"type": "no such"}), "guided_json"),
    (body_of("hi", guided_json='{"minimum": 1e999}'), "guided_json"),
    (body_of("hi", guided_json='{"a":' * 1000 + "1" + "}" * 1000), "guided_json"),
    (body_of("hi", structured_outputs={}), "structured_outputs"),
    (body_of("hi", structured_outputs={"xml": "<a/>", "json": None}), "structured_outputs"),
    (body_of("hi", structured_outputs={"whitespace_pattern": " "}), "structured_outputs"),
    (
        body_of("hi", structured_outputs={"regex": "a", "disable_any_whitespace": True}),
        "structured_outputs.disable_any_whitespace",
    ),
    (body_of("hi", reasoning_effort="a bit"), "reasoning_effort"),
    (body_of("hi", parallel_tool_calls="no"), "parallel_tool_calls"),
    (body_of("hi", mm_processor_kwargs={"zoom": 2}), "mm_processor_kwargs.zoom"),
    (body_of("hi", mm_processor_kwargs={"max_pixels": -2}), "mm_processor_kwargs.max_pixels"),
    (body_of("hi", continue_final_message=True, add_generation_prompt=True), "continue_final_message"),
    (body_of("half a pair: \ud83d"), None),
    (body_of("word " * 5000), "messages"),
    (body_of("hi", max_tokens=5000), "messages"),
    (picture("no url at all"), "messages[0].content[0]"),
    (picture("file:///etc/passwd"), "messages[0].content[0]"),
    (picture("ftp://example.org/a.png"), "messages[0].content[0]"),
    (picture("http://"), "messages[0].content[0]"),
    (picture("http://user:secret@example.org/a.png"), "messages[0].content[0]"),
    (picture("data:image/png;base64"), "messages[0].content[0]"),
    (picture("data:image/png;base64,"), "messages[0].content[0]"),
    (picture("data:image/png;base64,?!?"), "messages[0].content[0]"),
    (picture("data:text/html;base64,aGk="), "messages[0].content[0]"),
    (picture("data:video/mp4;base64,aGk="), "messages[0].content[0]"),
    (picture(data_uri(b"bad bytes")), "messages[0].content[0]"),
    (picture(data_uri(b"x" * 3000)), "messages[0].content[0]"),
    (body_of([image(b"good"), text("and"), image(b"bad")]), "messages[0].content[2]"),
    (body_of([image(bytes([i])) for i in range(5)]), None),
    (body_of([{"type": "video", "video": [data_uri(b"f")] * 9}]), "messages[0].content[0]"),
    ({"messages": [{"role": "system", "content": [image(b"good")]}, USER]}, "messages[0].content[0].type"),
]


@pytest.fixture(scope="module")
def config() -> Any:
    return replace(CONFIG, max_media_bytes=2000, max_images=4, max_video_frames=8, max_body_bytes=100_000)


async def test_bodies(config: Any) -> None:
    """One system for all of them: a wrong request must leave it as it was."""
    async with system(says("ok"), config=config) as (router, (language,), _):
        for body, param in BODIES:
            content = json.dumps(body).encode()
            response = await router.client.post("/v1/chat/completions", content=content)
            shown = f"{str(body)[:200]} -> {response.status_code} {response.text}"
            assert response.status_code == 400, shown
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, shown
            assert error["type"] == "invalid_request_error", shown
            assert error["param"] == param, shown
            assert error["message"], shown
        assert not language.served
        await _still_well(router)


async def test_long_variables_of_the_template() -> None:
    async with system(says("ok")) as (router, (language,), _):
        response = await router.chat("hi", chat_template_kwargs={"x": "word " * 100_000})
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert not language.served


async def test_half_of_a_surrogate_pair() -> None:
    """Wherever it stands, there is nothing that it could be shown as."""
    half = "\ud83d"
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", body_of("hi", guided_regex=half)),
        ("/v1/chat/completions", body_of("hi", guided_choice=[half])),
        ("/v1/chat/completions", body_of("hi", **{half: 1})),
        ("/v1/completions", {"prompt": half}),
        ("/v1/responses", {"input": "hi", "metadata": {"a": half}}),
        ("/v1/messages", {"max_tokens": 1, "messages": [USER], "metadata": {"user_id": half}}),
    ]
    async with system(says("ok")) as (router, (language,), _):
        for path, body in bodies:
            for content in (body, {**body, "stream": True}):
                response = await router.client.post(path, content=json.dumps(content).encode())
                assert response.status_code == 400, (path, response.text)
                assert "surrogate" in response.json()["error"]["message"]
        assert not language.served
        assert (await router.chat("\U0001f30b")).status_code == 200


async def test_not_even_json(config: Any) -> None:
    deep = b'{"messages":' + b"[" * 50_000 + b"]" * 40_000
    async with system(says("ok"), config=config) as (router, _, _):
        for content in (
            b"", b"{", b"nonsense", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b"\xff\xfe{}", b'"\xc3("', deep,
            b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}', b'{"n": ' + b"9" * 5000 + b"}",
        ):  # fmt: skip
            response = await router.client.post("/v1/chat/completions", content=content)
            assert response.status_code == 400, (content[:50], response.text)
            assert response.json()["error"]["type"] == "invalid_request_error"
        response = await router.client.post(
            "/v1/chat/completions", content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (415, "invalid_content_type")
        await _still_well(router)


async def test_numbers_that_are_infinite() -> None:
    """Nobody could read them where they are shown again, in an answer or a prompt."""
    schema = {"type": "object", "properties": {"a": {"maximum": "HERE"}}}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", body_of("hi", metadata={"a": "HERE"})),
        ("/v1/chat/completions", body_of("hi", chat_template_kwargs={"a": "HERE"})),
        ("/v1/chat/completions", body_of("hi", tools=[{"function": {"name": "f", "parameters": schema}}])),
        ("/v1/completions", {"prompt": "hi", "metadata": {"a": "HERE"}}),
        ("/v1/responses", {"input": "hi", "metadata": {"a": "HERE"}}),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "function", "name": "f", "parameters": schema}]}),
        ("/v1/messages", {"max_tokens": 1, "messages": [USER], "tools": [{"name": "f", "input_schema": schema}]}),
        ("/v1/messages/count_tokens", {"messages": [USER], "chat_template_kwargs": {"a": "HERE"}}),
        ("/tokenize", {"messages": [USER], "chat_template_kwargs": {"a": "HERE"}}),
        ("/detokenize", {"tokens": [1], "metadata": "HERE"}),
    ]
    async with system(says("ok")) as (router, (language,), _):
        for path, body in bodies:
            for number in ("1e999", "-1e999"):
                content = json.dumps(body).replace('"HERE"', number).encode()
                response = await router.client.post(path, content=content)
                assert response.status_code == 400, (path, response.text)
                error = response.json()["error"]
                assert f"{number} is too large" in error["message"]
                assert error.get("code", "invalid_json") == "invalid_json"  # Anthropic's errors have no code
        assert not language.served


async def test_bodies_that_are_too_large(config: Any) -> None:
    async def forever() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)

    async with system(says("ok"), config=config) as (router, _, _):
        for content in (bytes(200_000), forever()):
            response = await router.client.post(
                "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
            )
            assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
        await _still_well(router)


async def test_wrong_places() -> None:
    async with system(says("ok")) as (router, _, _):
        client = router.client
        unknown = await client.post("/v1/chat/completions", json=body_of("hi") | {"model": "gpt-9"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert unknown.json()["error"]["param"] == "model"
        assert (await client.get("/v1/models/gpt-9")).json()["error"]["code"] == "model_not_found"
        nowhere = await client.get("/v1/nothing")
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "not_found")
        method = await client.get("/v1/chat/completions")
        assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
        assert method.headers["allow"] == "POST"
        too_long = await router.chat("word " * 5000)
        assert too_long.json()["error"]["code"] == "context_length_exceeded"


async def test_text_that_can_not_fit_is_not_even_tokenized() -> None:
    async with system(says("ok")) as (router, _, _):
        model = router.services.fleet.model
        assert model is not None
        size = 4096 * model.longest_token
        for count, reason in ((size + 1, f"{size + 1} bytes of text"), (size, "tokens")):
            response = await router.chat([text("a" * 100), text("a" * (count - 100))])
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
            assert reason in error["message"]
            assert ("bytes" in error["message"]) == (count > size)


async def _post_part(router: Router) -> bytes:
    """What is answered to a body that is not all there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"messages')
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_bodies_that_are_slow() -> None:
    for limit, status in (("body_timeout_seconds", b"408"), ("request_timeout_seconds", b"504")):
        async with system(says("ok"), config=replace(CONFIG, **{limit: 0.2})) as (router, _, _):
            answer = await _post_part(router)
            assert answer.startswith(b"HTTP/1.1 " + status), answer
            assert router.metric("epd_requests_running") == 0
            assert router.services.budget.used == 0


async def test_keys(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("# keys\n\nfrom-file\n")
    config = replace(CONFIG, api_key=("one", "two"), api_key_file=file)
    async with system(says("ok"), config=config) as (router, _, _):
        for header in (None, "", "Bearer", "Bearer three", "Basic one", "one", "Bearer schlüssel"):
            headers = [(b"authorization", header.encode())] if header is not None else []
            chat = await router.client.post("/v1/chat/completions", json=body_of("hi"), headers=headers)
            for response in (chat, await router.client.get("/v1/models", headers=headers)):
                assert response.status_code == 401, header
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert (await router.client.get("/health")).status_code == 200
        for key in ("one", "two", "from-file"):
            router.client.headers["authorization"] = f"Bearer {key}"
            assert (await router.chat("hi")).status_code == 200
            assert (await router.client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing", "404"),
        ("/page", "text/html"),
        ("/empty", "no bytes"),
        ("/loop", "redirects"),
        ("/compressed", "compressed"),
        ("/large", "bytes"),
        ("/endless", "bytes"),
        ("/stall", "longer than"),
        ("/reset", "failed"),
        ("/redirect?to=file:///etc/passwd", "scheme"),
    ],
)
async def test_bad_urls(path: str, reason: str) -> None:
    async with web_server() as web:
        config = replace(web.config(), media_timeout_seconds=0.4, max_media_bytes=1_000_000)
        async with system(says("ok"), config=config) as (router, _, _):
            await _expect_400(router, web.url + path, reason)
            assert router.services.budget.used == 0


async def test_unreachable_and_private_urls() -> None:
    async with web_server() as web, system(says("ok")) as (router, _, _):
        before = web.connections
        port = web.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1"):
            await _expect_400(router, f"http://{host}:{port}/image", "public")
        await _expect_400(router, "http://169.254.169.254/latest/meta-data", "public")
        await _expect_400(router, "http://10.0.0.1/", "public")
        await _expect_400(router, "http://no-such-host.invalid/", "found")
        assert web.connections == before


async def test_the_media_budget() -> None:
    config = replace(CONFIG, media_budget_bytes=50_000)
    async with system(says("ok"), config=config) as (router, _, _):
        response = await router.chat([image(bytes(40_000))])
        assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
        assert router.services.budget.used == 0
        await _still_well(router)


async def _expect_400(router: Router, url: str, reason: str) -> None:
    async with asyncio.timeout(5):
        response = await router.client.post("/v1/chat/completions", json=picture(url))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[0]"
    assert reason in error["message"], error["message"]


async def _still_well(router: Router) -> None:
    response = await router.chat([image(base64.b64decode("aGk="))])
    assert response.status_code == 200, response.text
    assert router.metric("epd_requests_running") == 0
    assert router.services.budget.used == 0
