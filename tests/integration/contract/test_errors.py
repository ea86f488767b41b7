"""Errors as the client's exceptions, and keys."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.integration.contract.asking import ask, client_of, stream, streamed_text, user
from tests.integration.contract.conftest import KEYS
from tests.integration.contract.script import STORY
from tests.serving import Served


@pytest.mark.parametrize(
    ("content", "error", "code"),
    [
        ("Be busy.", openai.RateLimitError, "overloaded"),
        ("Be away.", openai.InternalServerError, "unavailable"),
        ("Be late.", openai.InternalServerError, "deadline_exceeded"),
        ("Break.", openai.InternalServerError, "internal_error"),
    ],
)
def test_servers_that_fail(client: OpenAI, content: str, error: type[openai.APIStatusError], code: str) -> None:
    with pytest.raises(error) as caught:
        ask(client, content)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    if code in ("overloaded", "unavailable"):
        assert int(caught.value.response.headers["retry-after"]) > 0


def test_a_stream_that_breaks_off(client: OpenAI) -> None:
    chunks: list[ChatCompletionChunk] = []
    events = client.chat.completions.create(model="demo", messages=user("Break off."), stream=True)  # type: ignore[call-overload]
    with events, pytest.raises(openai.APIError) as caught:
        chunks.extend(events)
    assert streamed_text(chunks)
    assert STORY.startswith(streamed_text(chunks))
    assert caught.value.code == "internal_error"
    assert "secret" not in str(caught.value)


def test_a_stream_that_can_not_begin_is_no_stream(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stream(client, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"


def test_requests_that_are_wrong(client: OpenAI) -> None:
    fields: dict[str, Any]
    for fields, error, param, code in (
        ({"model": "gpt-9"}, openai.NotFoundError, "model", "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "messages", None),
        ({"messages": [{"role": "king", "content": "hi"}]}, openai.BadRequestError, "messages[0]", None),
        ({"content": "word " * 5000}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"stream_options": {}}, openai.BadRequestError, "stream_options", None),
        ({"audio": {"voice": "x", "format": "wav"}}, openai.BadRequestError, "audio", "unsupported_parameter"),
        ({"modalities": ["audio"]}, openai.BadRequestError, "modalities", "unsupported_parameter"),
    ):
        with pytest.raises(error) as caught:
            ask(client, **fields)
        assert isinstance(caught.value, openai.APIStatusError)
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
        assert code in (None, caught.value.code)


def test_keys(served: Served) -> None:
    for key in KEYS:
        with client_of(served, key) as client:
            assert ask(client).choices
    for key in ("wrong", KEYS[0][:-1], KEYS[0] * 2, "schlüssel"):
        with httpx.Client(base_url=served.url, trust_env=False) as http:
            answer = http.get("/v1/models", headers={"authorization": f"Bearer {key}".encode()})
        assert answer.status_code == 401
    with client_of(served, "wrong") as client:
        for request in (lambda: ask(client), lambda: client.models.list()):
            with pytest.raises(openai.AuthenticationError) as caught:
                request()
            assert caught.value.code == "invalid_api_key"


def test_request_ids(client: OpenAI) -> None:
    made_up = ask(client)
    assert made_up._request_id is not None
    given = client.with_options(default_headers={"x-request-id": "mine:1"})
    assert ask(given)._request_id == "mine:1"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(given, temperature=-1)
    assert caught.value.request_id == "mine:1"
