"""Server-sent events of a chat completion. Tens of thousands a second pass here: what is fixed is made once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # proxies pass it on as it comes
}

_quote = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ChatChunks:
    """Events of one answer.

    Args:
        head: the fields that every chunk has ("id", "created", ...).
        with_usage: chunks have the field "usage".
    """

    def __init__(self, head: Mapping[str, Any], *, with_usage: bool) -> None:
        self._head = "data: " + _quote({**head, "object": "chat.completion.chunk"})[:-1]
        self._no_usage = ',"usage":null' if with_usage else ""

    def role(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk(
            f'{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}'
        )

    def text(
        self, index: int, text: str, *, token_ids: Sequence[int] | None = None, usage: Mapping[str, Any] | None = None
    ) -> bytes:
        ids = f',"token_ids":{_quote(list(token_ids))}' if token_ids is not None else ""
        return self._chunk(
            f'{{"index":{index},"delta":{{"content":{_quote(text)}}},"logprobs":null,"finish_reason":null{ids}}}', usage
        )

    def finish(
        self,
        index: int,
        reason: str,
        stop_reason: str | int | None,
        *,
        usage: Mapping[str, Any] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> bytes:
        """The last chunk of a choice."""
        end = f'"finish_reason":{_quote(reason)},"stop_reason":{_quote(stop_reason)}'
        choice = f'{{"index":{index},"delta":{{}},"logprobs":null,{end}}}'
        return self._chunk(choice, usage, timings)

    def usage(self, usage: Mapping[str, Any], *, timings: Mapping[str, float] | None = None) -> bytes:
        """The last chunk of all, with no choice in it."""
        return self._chunk("", usage, timings)

    def _chunk(
        self, choice: str, usage: Mapping[str, Any] | None = None, timings: Mapping[str, float] | None = None
    ) -> bytes:
        tail = f',"usage":{_quote(usage)}' if usage is not None else self._no_usage
        if timings is not None:
            tail += f',"timings":{_quote(timings)}'
        return f'{self._head},"choices":[{choice}]{tail}}}\n\n'.encode()


def error_event(body: bytes) -> bytes:
    """An error after the stream has begun; nothing follows it."""
    return b"data: " + body + b"\n\n"
