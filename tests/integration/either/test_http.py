"""What lies around a request: keys, ids, browsers, limits, silence, and errors that have one shape everywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI
from openai.types.shared import ErrorObject

from tests.integration.contract.asking import ask, claude_of, client_of, stream, streamed_text, strict, text_of, user
from tests.integration.either.conftest import ALICE, BOB, CAROL, CECIL, DAVE, DORA, PAGE
from tests.integration.either.questions import GREETING, HELLO, SLOW
from tests.serving import TIMEOUT, Served

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "demo", "messages": user(HELLO), "temperature": 0}
GOOD = json.dumps(BODY).encode()
PAST_ITS_END = {"max_tokens": 300, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
    with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=TIMEOUT) as http:
        yield http


@pytest.fixture
def page(guarded: Served) -> Iterator[httpx.Client]:
    """A web page that asks the guarded router."""
    headers = {"x-api-key": CAROL, "origin": PAGE}
    with httpx.Client(base_url=guarded.url, headers=headers, trust_env=False, timeout=TIMEOUT) as http:
        yield http


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        (CHAT, b"{", {}, 400, "invalid_json"),
        (CHAT, b"\xff\xfe", {}, 400, "invalid_json"),
        (CHAT, b'{"temperature": NaN}', {}, 400, "invalid_json"),
        (CHAT, b'{"temperature": 1e999}', {}, 400, "invalid_json"),
        (CHAT, b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}", {}, 400, "body_too_complex"),
        (CHAT, GOOD, {"content-type": "text/plain"}, 415, "invalid_content_type"),
        (CHAT, GOOD, {"content-encoding": "gzip"}, 415, "invalid_content_encoding"),
        ("/v1/nothing", GOOD, {}, 404, "not_found"),
        ("/health", GOOD, {}, 405, "method_not_allowed"),
        (CHAT, GOOD, {"authorization": "Bearer wrong"}, 401, "invalid_api_key"),
    ],
)
def test_errors(http: httpx.Client, path: str, content: bytes, headers: dict[str, str], status: int, code: str) -> None:
    answer = http.post(path, content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    (name, error), *others = answer.json().items()
    assert (name, others) == ("error", [])
    assert set(error) == {"message", "type", "param", "code"}
    assert strict(ErrorObject(**error)).code == code
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
    ],
)
def test_bodies_that_are_none(http: httpx.Client, path: str) -> None:
    for content in (b"{", b"\xff\xfe", b'{"max_tokens": Infinity}', b'{"max_tokens": NaN}', b"[]", b""):
        answer = http.post(path, content=content)
        assert answer.status_code == 400, content
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        if "messages" not in path:
            assert set(error) == {"message", "type", "param", "code"}


def test_keys(served: Served, guarded: Served) -> None:
    """By both headers; of several, and from a file and the environment."""
    for router, keys in ((served, (ALICE, BOB)), (guarded, (CAROL, CECIL, DAVE, DORA))):
        for key in keys:
            with client_of(router, key) as client, claude_of(router, key) as claude:
                assert text_of(ask(client, HELLO, temperature=0)) == GREETING
                assert claude.messages.count_tokens(model="demo", messages=user(HELLO)).input_tokens  # type: ignore[arg-type]
        for wrong in ("wrong", keys[0][:-1], keys[0] * 2, "schlüssel"):
            headers = {"authorization": f"Bearer {wrong}".encode()}
            assert httpx.get(f"{router.url}/v1/models", headers=headers, trust_env=False).status_code == 401
        with client_of(router, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        with claude_of(router, "wrong") as claude, pytest.raises(anthropic.AuthenticationError):
            claude.messages.create(model="demo", max_tokens=5, messages=user(HELLO))  # type: ignore[arg-type]
        for open_to_all in ("/health", "/ready", "/version", "/metrics", "/openapi.json"):
            assert httpx.get(router.url + open_to_all, trust_env=False).status_code == 200


def test_models(client: OpenAI) -> None:
    assert [strict(card).id for card in client.models.list()] == ["demo", "org/demo"]
    for name in ("demo", "org/demo"):
        assert strict(client.models.retrieve(name)).id == name
        assert ask(client, HELLO, model=name, max_tokens=1).model == name
    for ask_for in (lambda: client.models.retrieve("gpt-9"), lambda: ask(client, HELLO, model="gpt-9")):
        with pytest.raises(openai.NotFoundError) as caught:
            ask_for()
        assert caught.value.code == "model_not_found"


def test_request_ids(client: OpenAI, claude: Anthropic) -> None:
    assert ask(client, HELLO, max_tokens=1)._request_id
    given = client.with_options(default_headers={"x-request-id": "mine:1"})
    assert ask(given, HELLO, max_tokens=1)._request_id == "mine:1"
    for wrong in (lambda: ask(given, temperature=-1), lambda: given.models.retrieve("gpt-9")):
        with pytest.raises(openai.APIStatusError) as caught:
            wrong()
        assert caught.value.request_id == "mine:1"
    raw = claude.messages.with_raw_response.create(
        model="demo",
        max_tokens=1,
        messages=user(HELLO),
        extra_headers={"x-request-id": "mine:2"},  # type: ignore[arg-type]
    )
    assert raw.headers["x-request-id"] == "mine:2"


def test_pages_in_browsers(page: httpx.Client, http: httpx.Client) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    allowed = page.options(CHAT, headers=asks)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    assert {"authorization", "content-type"} <= set(allowed.headers["access-control-allow-headers"].split(","))
    answer = page.post(CHAT, json=BODY)
    assert answer.json()["choices"][0]["message"]["content"] == GREETING
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert page.options(CHAT, headers={**asks, "origin": "https://evil.example.org"}).status_code == 400
    assert "access-control-allow-origin" not in http.post(CHAT, content=GOOD, headers={"origin": PAGE}).headers


def test_large_requests(page: httpx.Client) -> None:
    large = page.post(CHAT, json={**BODY, "messages": user("x" * 70_000)})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    long = page.get("/v1/models", headers={"x-long": "x" * 5000})
    assert (long.status_code, long.json()["error"]["code"]) == (431, "header_too_large")


def test_one_request_too_many(carol: OpenAI) -> None:
    """The guarded router takes one at a time."""
    running = carol.chat.completions.create(model="demo", messages=user(HELLO), stream=True, **PAST_ITS_END)  # type: ignore[call-overload]
    with running:
        next(running)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(carol, HELLO)
    assert caught.value.code == "overloaded"
    assert int(caught.value.response.headers["retry-after"]) > 0
    retrying = carol.with_options(max_retries=5)  # which a client does by itself
    assert text_of(ask(retrying, HELLO, temperature=0)) == GREETING


def fall_silent(served: Served, seconds: float) -> None:
    """The language server says nothing for so long."""
    os.kill(served.pids["language"], signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(served.pids["language"], signal.SIGCONT)


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_silence(guarded: Served, served: Served, api: str) -> None:
    """A language server that says nothing for a while: its streams are kept alive, and clients never notice."""
    silent = 1.0
    headers = {"x-api-key": CAROL}
    body = {**BODY, "stream": True, "max_tokens": 300, "ignore_eos": True}
    path, sign = (CHAT, ": keep-alive") if api == "chat" else ("/v1/messages", "event: ping")
    with httpx.stream("POST", guarded.url + path, json=body, headers=headers, timeout=TIMEOUT, trust_env=False) as raw:
        assert raw.headers["x-accel-buffering"] == "no"
        assert raw.headers["cache-control"] == "no-cache"
        lines = raw.iter_lines()
        before = [next(lines) for _ in range(12)]
        fall_silent(served, silent)
        rest = list(lines)
    assert (before + rest).count(sign) >= silent / 0.2 / 2
    assert rest[-2] == ("data: [DONE]" if api == "chat" else 'data: {"type":"message_stop"}')


@pytest.mark.parametrize(
    ("path", "question", "sign", "first"),
    [
        ("/v1/chat/completions", "messages", ": keep-alive", r'"content":"[^"]'),
        ("/v1/completions", "prompt", ": keep-alive", r'"text":"'),
        ("/v1/responses", "input", ": keep-alive", r'"response.output_text.delta"'),
        ("/v1/messages", "messages", "event: ping", r'"text_delta"'),
    ],
)
def test_long_prompts(guarded: Served, path: str, question: str, sign: str, first: str) -> None:
    """What lasts long before the first token is kept alive as well. Each prompt begins differently: none is cached."""
    text = f"{SLOW}, {path}: " + "one two three four five six seven eight nine ten " * 190
    body: dict[str, Any] = {"model": "demo", question: user(text) if question == "messages" else text, "stream": True}
    body["max_output_tokens" if question == "input" else "max_tokens"] = 4
    headers = {"x-api-key": CAROL}
    with httpx.stream("POST", guarded.url + path, json=body, headers=headers, timeout=TIMEOUT, trust_env=False) as raw:
        assert raw.status_code == 200
        lines = list(raw.iter_lines())
    token = next(i for i, line in enumerate(lines) if re.search(first, line))
    assert sign in lines[:token], lines[:token][-3:]


def test_clients_do_not_mind_silence(carol: OpenAI, served: Served) -> None:
    events = carol.chat.completions.create(model="demo", messages=user(HELLO), stream=True, **PAST_ITS_END)  # type: ignore[call-overload]
    with events:
        begin = [next(events) for _ in range(4)]
        fall_silent(served, 0.7)
        chunks = [strict(chunk) for chunk in (*begin, *events)]
    assert streamed_text(chunks).startswith(GREETING)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_that_can_not_begin_is_no_stream(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stream(client, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"


def test_paths_for_services(served: Served) -> None:
    with httpx.Client(base_url=served.url, trust_env=False) as http:
        assert http.get("/health").status_code == http.get("/ready?for=text").status_code == 200
        assert http.get("/version").json()["version"]
        assert "epd_requests_accepted_total" in http.get("/metrics").text
        paths = set(http.get("/openapi.json").json()["paths"])
    assert {CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize"} <= paths
