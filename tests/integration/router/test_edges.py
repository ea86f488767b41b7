"""HTTP itself: what is no good request before anybody looks at what it asks for, and connections that go on or end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from router.http.protocol import Protocol
from tests.integration.router.system import CONFIG, Router, body_of, says, system

CHAT = "/v1/chat/completions"
ANTHROPIC = "/v1/messages"


class Wire:
    """A connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *lines: str, body: bytes = b"") -> None:
        self._writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + body)
        await self._writer.drain()

    async def post(self, body: bytes, *headers: str, path: str = CHAT) -> None:
        await self.send(f"POST {path} HTTP/1.1", "host: x", *headers, f"content-length: {len(body)}", body=body)

    async def write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def answer(self, *, has_body: bool = True) -> httpx.Response:
        """The next one."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)) if has_body else 0)
        return httpx.Response(int(head[0].split()[1]), headers=headers, content=body)

    async def ended(self) -> bool:
        """Whether the server closes the connection without another word."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""


@contextlib.asynccontextmanager
async def wire(router: Router) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def check_error(response: httpx.Response, status: int, code: str | None = None) -> None:
    """In OpenAI's shape, with an id, and with nothing in it that is ours to know."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert code is None or error["code"] == code
    for secret in ("Traceback", "File ", ".py", "/router/"):
        assert secret not in response.text


GOOD = json.dumps(body_of("hi")).encode()


async def test_every_error_has_its_shape() -> None:
    """Over one connection as far as it lasts, which these errors must not end."""
    config = replace(CONFIG, max_body_bytes=100_000)
    deep = b'{"messages": ' + b"[" * 200 + b"]" * 200 + b"}"
    cases: list[tuple[str, str, bytes, dict[str, str], int, str | None]] = [
        ("POST", CHAT, b"{", {}, 400, "invalid_json"),
        ("POST", CHAT, b"", {}, 400, "invalid_json"),
        ("POST", CHAT, b"\xff\xfe", {}, 400, "invalid_json"),
        ("POST", CHAT, '{"a": 1}'.encode("utf-16"), {}, 400, "invalid_json"),
        ("POST", CHAT, b'{"n": ' + b"9" * 5000 + b"}", {}, 400, "invalid_json"),
        ("POST", CHAT, b'{"temperature": NaN}', {}, 400, "invalid_json"),
        ("POST", CHAT, deep, {}, 400, "body_too_complex"),
        ("POST", CHAT, b"[" * 90_000, {}, 400, "body_too_complex"),
        ("POST", CHAT, json.dumps({"model": "\ud83d", **body_of("hi")}).encode(), {}, 200, None),
        ("POST", CHAT, json.dumps({**body_of("hi"), "model": "\ud83d"}).encode(), {}, 400, "invalid_json"),
        ("POST", CHAT, json.dumps({**body_of("hi"), "model": "x" * 50_000}).encode(), {}, 404, "model_not_found"),
        ("POST", CHAT, json.dumps({"messages": [{"role": "x" * 50_000}]}).encode(), {}, 400, None),
        ("POST", CHAT, json.dumps({"messages": [{"role": "\ud83d"}]}).encode(), {}, 400, "invalid_json"),
        ("POST", CHAT, GOOD, {"content-type": "text/plain"}, 415, "invalid_content_type"),
        ("POST", CHAT, GOOD, {"content-type": "multipart/form-data; boundary=x"}, 415, "invalid_content_type"),
        ("POST", CHAT, GOOD, {"content-encoding": "gzip"}, 415, "invalid_content_encoding"),
        ("POST", CHAT, b" " * 100_001, {}, 413, "body_too_large"),
        ("GET", CHAT, b"", {}, 405, "method_not_allowed"),
        ("DELETE", CHAT, b"", {}, 405, "method_not_allowed"),
        ("TRACE", CHAT, b"", {}, 405, "method_not_allowed"),
        ("OPTIONS", CHAT, b"", {}, 405, "method_not_allowed"),
        ("POST", "/v1/models", b"{}", {}, 405, "method_not_allowed"),
        ("POST", "/health", b"{}", {}, 405, "method_not_allowed"),
        ("POST", "/nothing", b"{}", {}, 404, "not_found"),
        ("GET", "/", b"", {}, 404, "not_found"),
        ("GET", "/v1/", b"", {}, 404, "not_found"),
        ("GET", "/%ff%00/" + "x" * 5000, b"", {}, 404, "not_found"),
        ("GET", "/v1/models/gpt-9", b"", {}, 404, "model_not_found"),
        ("GET", "/v1/models/..%2f..%2fetc", b"", {}, 404, "model_not_found"),
        ("GET", "/ready?for=tea", b"", {}, 400, None),
        ("GET", "/docs", b"", {}, 404, "not_found"),
    ]
    async with system(says("ok"), config=config) as (router, _, _):
        for method, path, content, headers, status, code in cases:
            shown = f"{method} {path[:40]} {content[:40]!r}"
            response = await router.client.request(method, path, content=content, headers=headers)
            assert response.headers["x-request-id"], shown
            if status == 200:
                assert response.status_code == 200, shown
                continue
            assert response.status_code == status, f"{shown}: {response.status_code} {response.text[:200]}"
            check_error(response, status, code)
            assert len(response.content) < 10_000, shown
            if status == 405:
                assert response.headers["allow"], shown
        assert (await router.chat("hi")).status_code == 200
        assert router.services.budget.used == 0
        assert router.metric("epd_requests_running") == 0


async def test_a_fault_of_ours_shows_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("in /router/somewhere.py")

    async with system(says("ok")) as (router, _, _):
        monkeypatch.setattr(router.services.fleet, "readiness", lambda: broken(None))
        for _ in range(2):
            check_error(await router.client.get("/ready"), 500, "internal_error")
        monkeypatch.undo()
        monkeypatch.setattr(router.services.dispatcher, "chat", lambda *_, **__: broken(None))
        check_error(await router.chat("hi"), 500, "internal_error")


async def test_keys_guard_what_costs_and_nothing_else() -> None:
    async with system(says("ok"), config=replace(CONFIG, api_key=("one", "two"))) as (router, _, _):
        client = router.client
        document = (await client.get("/openapi.json")).json()
        guarded = {
            path for path, item in document["paths"].items() for use in item.values() if "401" in use["responses"]
        }
        assert guarded == {
            path for path in document["paths"] if path.startswith("/v1/") or path.endswith(("tokenize", "/servers"))
        }
        for path, item in document["paths"].items():
            for method in item:
                url = path.format(model="demo", response_id="x")
                response = await client.request(method, url, json={} if method == "post" else None)
                assert (response.status_code == 401) == (path in guarded), (path, response.text)
                if response.status_code == 401:
                    assert response.headers["www-authenticate"] == "Bearer"
        for headers in ({"authorization": "Bearer one"}, {"x-api-key": "two"}):
            assert (await client.post(CHAT, json=body_of("hi"), headers=headers)).status_code == 200
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_names_of_the_model() -> None:
    async with system(says("ok"), config=replace(CONFIG, served_model_name=("org/demo", "other"))) as (router, _, _):
        listed = (await router.client.get("/v1/models")).json()
        assert [card["id"] for card in listed["data"]] == ["org/demo", "other"]
        for path in ("/v1/models/org/demo", "/v1/models/org%2Fdemo", "/v1/models/other", "/v1/models/other/"):
            card = (await router.client.get(path)).json()
            assert (card["object"], card["max_model_len"]) == ("model", 4096)
        for name, shown in (("org/demo", "org/demo"), ("other", "other"), (None, "org/demo")):
            response = await router.chat("hi", model=name)
            assert response.json()["model"] == shown


async def test_request_ids() -> None:
    async with system(says("ok")) as (router, _, _):
        given = await router.client.get("/health", headers={"x-request-id": "my-id.1:2"})
        assert given.headers["x-request-id"] == "my-id.1:2"
        made = set()
        for odd in ("", "a b", "x" * 129, "ümlaut".encode().decode("latin-1"), 'a"b', "{}"):
            response = await router.client.get("/nothing", headers=[(b"x-request-id", odd.encode("latin-1"))])
            made.add(response.headers["x-request-id"])
        assert len(made) == 6
        assert all(len(one) == 32 for one in made)


async def test_head_and_slashes() -> None:
    """HEAD is GET without a body; a slash at the end means nothing, and nobody is redirected."""
    async with system(says("ok")) as (router, _, _):
        for path in ("/health", "/health/", "/v1/models", "/v1/models/", "/metrics/", "/openapi.json"):
            got, headed = await router.client.get(path), await router.client.head(path)
            assert (got.status_code, headed.status_code, headed.content) == (200, 200, b""), path
            if "metrics" not in path:
                assert headed.headers["content-length"] == str(len(got.content))
        assert (await router.client.head(CHAT)).status_code == 405
        assert (await router.client.post(CHAT + "/", json=body_of("hi"))).status_code == 200


async def test_cors() -> None:
    page = {"origin": "https://chat.example.org"}
    ask = {**page, "access-control-request-method": "POST", "access-control-request-headers": "authorization,x-other"}
    async with system(says("ok")) as (router, _, _):
        assert "access-control-allow-origin" not in (await router.client.get("/health", headers=page)).headers
    config = replace(CONFIG, cors_origins=("https://chat.example.org",), api_key=("key",))
    async with system(says("ok"), config=config) as (router, _, _):
        allowed = await router.client.options(CHAT, headers=ask)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, page["origin"])
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "POST" in allowed.headers["access-control-allow-methods"]
        for response in (
            await router.client.post(CHAT, json=body_of("hi"), headers={**page, "x-api-key": "key"}),
            await router.client.post(CHAT, json=body_of("hi"), headers=page),  # also scripts want to see a 401
            await router.client.get("/nothing", headers=page),
        ):
            assert response.headers["access-control-allow-origin"] == page["origin"]
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]
            assert "X-Ignored-Fields" in response.headers["access-control-expose-headers"]
        elsewhere = await router.client.options(CHAT, headers={**ask, "origin": "https://evil.example.org"})
        assert elsewhere.status_code == 400
        assert "access-control-allow-origin" not in elsewhere.headers
    async with system(says("ok"), config=replace(CONFIG, cors_origins=("*",))) as (router, _, _):
        assert (await router.client.get("/health", headers=page)).headers["access-control-allow-origin"] == "*"


async def test_heads_that_are_none() -> None:
    config = replace(CONFIG, max_header_bytes=4096)
    async with system(says("ok"), config=config) as (router, _, _):
        for lines, status in (
            (("GET /health HTTP/1.1", "host: x", f"a: {'x' * 5000}"), 431),
            ((f"GET /{'x' * 5000} HTTP/1.1", "host: x"), 431),
            (("GET /health HTTP/1.1", "host: x", *[f"a{i}: x" for i in range(1000)]), 431),
            (("GET /health HTTP/1.1",), 400),  # no Host
            (("nonsense",), 400),
            (("GET /health HTTP/1.1", "host: x", "a b: c"), 400),
            (("POST /health HTTP/1.1", "host: x", "content-length: -1"), 400),
            (("POST /health HTTP/1.1", "host: x", "content-length: 1", "content-length: 2"), 400),
            (("POST /health HTTP/1.1", "host: x", "transfer-encoding: gzip"), 501),
        ):
            async with wire(router) as connection:
                await connection.send(*lines)
                response = await connection.answer()
                check_error(response, status, "header_too_large" if status == 431 else "invalid_http")
                assert response.headers["connection"] == "close"
                assert await connection.ended()
        async with wire(router) as connection:  # and no end in sight
            await connection.write(b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: xxxxxx\r\n" * 350)
            await connection.write(b"a: xxxxxx\r\n" * 50)
            check_error(await connection.answer(), 431, "header_too_large")
        async with wire(router) as connection:  # in the middle of a body
            await connection.send(
                f"POST {CHAT} HTTP/1.1", "host: x", "transfer-encoding: chunked", body=b"nonsense\r\n"
            )
            check_error(await connection.answer(), 400, "invalid_http")
            assert await connection.ended()
        await router.until(lambda: router.metric("epd_requests_running") == 0)
        assert (await router.chat("hi")).status_code == 200


async def test_heads_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "head_timeout", 0.3)
    async with system(says("ok")) as (router, (language,), _):
        language.pace = asyncio.Semaphore(0)
        async with wire(router) as silent, wire(router) as slow, wire(router) as good:
            await slow.write(b"GET /health HTTP/1.1\r\nhost:")
            await good.post(GOOD)
            assert await silent.ended()
            assert await slow.ended()
            for _ in range(10):
                language.pace.release()
            assert (await good.answer()).status_code == 200, "whoever waits for an answer is not slow"
            await asyncio.sleep(0.5)  # longer than a head may take
            await good.send("GET /health HTTP/1.1", "host: x")
            assert (await good.answer()).status_code == 200, "nor is who has nothing to ask for a while"
            await good.write(b"GET /health HT")
            assert await good.ended()


async def test_connections_go_on_after_errors() -> None:
    """Also if nobody has read the body of what was refused."""
    async with system(says("ok"), config=replace(CONFIG, api_key=("key",))) as (router, _, _):
        async with wire(router) as connection:
            await connection.post(GOOD)
            check_error(await connection.answer(), 401)
            await connection.post(b"x" * 300_000, path="/nothing")
            check_error(await connection.answer(), 404)
            await connection.post(b"{", "x-api-key: key")
            check_error(await connection.answer(), 400)
            await connection.post(GOOD, "x-api-key: key")
            assert (await connection.answer()).status_code == 200
        async with wire(router) as connection:  # two at once, as pipelines have them
            await connection.send("GET /health HTTP/1.1", "host: x", "", "GET /version HTTP/1.1", "host: x")
            assert (await connection.answer()).json() == {"status": "ok"}
            assert "version" in (await connection.answer()).json()


async def test_nonsense_behind_a_good_request() -> None:
    """The request is answered, then the nonsense, and the connection ends."""
    async with system(says("ok")) as (router, (language,), _):
        language.pace = asyncio.Semaphore(0)
        async with wire(router) as connection:
            await connection.post(GOOD)
            await connection.write(b"nonsense\r\n\r\n")
            await router.until(lambda: len(language.served) == 1)
            await connection.write(b"more of it\r\n\r\n")
            for _ in range(10):
                language.pace.release()
            assert (await connection.answer()).status_code == 200
            check_error(await connection.answer(), 400, "invalid_http")
            assert await connection.ended()


async def test_chunks_without_end() -> None:
    """What surrounds the body is as bounded as the head."""
    async with system(says("ok"), config=replace(CONFIG, max_header_bytes=4096)) as (router, _, _):
        for start, more in ((b"1;a=", b"x" * 1000), (b"0\r\na: ", b"x" * 1000), (b"0\r\n", b"a: b\r\n" * 200)):
            async with wire(router) as connection:
                await connection.send(f"POST {CHAT} HTTP/1.1", "host: x", "transfer-encoding: chunked", body=start)
                await router.until(lambda: router.metric("epd_requests_running") == 1)
                with contextlib.suppress(ConnectionError):
                    for _ in range(10):
                        await connection.write(more)
                check_error(await connection.answer(), 431, "header_too_large")
            await router.until(lambda: router.metric("epd_requests_running") == 0)
        async with wire(router) as connection:
            body = b"%x\r\n%b\r\n0\r\nhost: y\r\nx-request-id: z\r\n\r\n" % (len(GOOD), GOOD)
            lines = (f"POST {CHAT} HTTP/1.1", "host: x", "transfer-encoding: chunked")
            await connection.send(*lines, body=body)
            response = await connection.answer()
            assert (response.status_code, response.headers["x-request-id"] != "z") == (200, True)


async def test_offers_to_speak_something_else() -> None:
    """As Java's client makes them: they are not taken up."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAA")
    async with system(says("ok")) as (router, _, _), wire(router) as connection:
        await connection.post(GOOD, *offer)
        assert (await connection.answer()).status_code == 200
        await connection.send("GET /health HTTP/1.1", "host: x", *offer)
        assert (await connection.answer()).status_code == 200
        await connection.post(GOOD)
        assert (await connection.answer()).status_code == 200


async def test_a_body_that_does_not_come_to_an_end_ends_the_connection() -> None:
    config = replace(CONFIG, max_body_bytes=1000)
    async with system(says("ok"), config=config) as (router, _, _), wire(router) as connection:
        await connection.send(f"POST {CHAT} HTTP/1.1", "host: x", "content-length: 100000000", body=b"x" * 5000)
        response = await connection.answer()
        check_error(response, 413, "body_too_large")
        assert response.headers["connection"] == "close"
        assert await connection.ended()


async def test_expect_100_continue() -> None:
    """Who asks before sending is told to go on, or at once why not."""
    async with system(says("ok"), config=replace(CONFIG, api_key=("key",), max_body_bytes=1000)) as (router, _, _):
        head = (f"POST {CHAT} HTTP/1.1", "host: x", "expect: 100-continue")
        async with wire(router) as connection:
            await connection.send(*head, "x-api-key: key", f"content-length: {len(GOOD)}")
            assert (await connection.answer()).status_code == 100
            await connection.write(GOOD)
            assert (await connection.answer()).status_code == 200
        for lines, status in (
            ((*head, "content-length: 9"), 401),
            ((*head, "x-api-key: key", "content-length: 2000"), 413),
        ):
            began = time.monotonic()
            async with wire(router) as connection:
                await connection.send(*lines)
                check_error(await connection.answer(), status)
                assert await connection.ended()
            assert time.monotonic() - began < 1.5, "nobody waits for a body that is not sent"


async def test_fields_with_odd_names() -> None:
    """What stands in a header of the answer came from a stranger."""
    async with system(says("ok")) as (router, _, _):
        for name in ("", " ", "x\r\nset-cookie: a", "\x00", "é", "x" * 5000):
            response = await router.chat("hi", **{name: 1})
            assert response.status_code == 200
            assert response.headers["x-ignored-fields"]
            assert "set-cookie" not in response.headers
        content = json.dumps(body_of("hi") | {"\ud83d": 1}).encode()
        response = await router.client.post(CHAT, content=content)
        check_error(response, 400)


async def test_streams_pass_proxies() -> None:
    async with system(says("ok")) as (router, _, _):
        response = await router.chat("hi", stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        old = b"POST %s HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(GOOD))
        async with wire(router) as connection:
            await connection.write(old + GOOD)
            assert (await connection.answer()).status_code == 200
            assert await connection.ended()


async def test_hostile_bodies_do_not_hold_up_others() -> None:
    """The longest that the event loop is away, while bodies come that are made to be slow."""
    hostile: list[Any] = [
        b"[" * 199_000,
        b'{"messages":[' + b"{}," * 60_000 + b"{}]}",
        b'{"messages":[' + b'{"role":"user","content":""},' * 9_000 + b"1]}",
        b'{"stop":[' + b'"a",' * 190_000 + b'"a"]}',
        b'{"a":"' + b"\\u0041" * 1_000_000 + b'"}',
        b"{" + b",".join(b'"%d":%d' % (i, i) for i in range(90_000)) + b"}",
    ]
    async with system(says("ok")) as (router, _, _):
        for body in hostile:
            assert (await router.client.post(CHAT, content=body)).status_code == 400
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - began)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(router.client.post(CHAT, content=body) for body in hostile))
        watching.cancel()
        assert longest < 1.0
