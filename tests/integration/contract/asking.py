"""Questions by way of the official client, and answers that are what its types say they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from anthropic import Anthropic
from anthropic import DefaultHttpxClient as AnthropicHttpClient
from openai import DefaultHttpxClient, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.serving import TIMEOUT, Served

AnswerT = TypeVar("AnswerT", bound=BaseModel)


def strict(answer: AnswerT) -> AnswerT:
    """The same answer. The client itself takes whatever comes; this raises if a field is not of its declared type."""
    kind = type(answer)
    kind.model_validate_json(json.dumps(answer.to_dict(mode="json")), strict=True)  # type: ignore[attr-defined]
    return answer


def client_of(served: Served, key: str = "none") -> OpenAI:
    """Without retries: every answer is the first one."""
    http = DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT, http_client=http)


@contextmanager
def claude_of(served: Served, key: str = "none") -> Iterator[Anthropic]:
    """Anthropic's, likewise."""
    http = AnthropicHttpClient(trust_env=False)
    with Anthropic(base_url=served.url, api_key=key, max_retries=0, timeout=TIMEOUT, http_client=http) as client:
        yield client


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def ask(client: OpenAI, content: Any = "Greet me.", **fields: Any) -> ChatCompletion:
    """A chat completion. Fields that the client has no names for go in `extra_body`, and none may be ignored."""
    raw = client.chat.completions.with_raw_response.create(**{"model": "demo", "messages": user(content), **fields})
    assert "x-ignored-fields" not in raw.headers
    return strict(raw.parse())


def text_of(answer: ChatCompletion) -> str | None:
    (choice,) = answer.choices
    return choice.message.content


def stream(client: OpenAI, content: Any = "Greet me.", **fields: Any) -> list[ChatCompletionChunk]:
    """All chunks of a streamed one."""
    fields = {"model": "demo", "messages": user(content), "stream": True, **fields}
    with client.chat.completions.create(**fields) as chunks:
        return [strict(chunk) for chunk in chunks]


def streamed_text(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
