"""Servers that fail, as the client's exceptions. Requests that are wrong are in either/test_fields.py."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.integration.contract.asking import ask, streamed_text, user
from tests.integration.contract.script import STORY


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
