"""A message of Anthropic's API: the answer whole, or as events. One machine makes both, so that they can't differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from router.answer.shape import CallDelta, Delta, End, Head, Usage, Whole
from router.http.sse import quote
from router.problems import Problem

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(problem: Problem, request_id: str) -> bytes:
    """A problem as Anthropic's API spells it. That has no field for what it is about: the message says it."""
    usual = "invalid_request_error" if problem.status < 500 else "api_error"
    message = problem.message
    if problem.param is not None and problem.param not in message:
        message = f"{problem.param}: {message}"
    error = {"type": _ERROR_TYPES.get(problem.status, usual), "message": message}
    return quote({"type": "error", "error": error, "request_id": request_id}).encode()


class MessageShape:
    """Anthropic's `message` and its streaming events.

    Args:
        head: of the answer.
        prompt_tokens: of the request.
        fills_context: an answer that ends with its length is as long as the model's context allows.
    """

    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, head: Head, *, prompt_tokens: int, fills_context: bool) -> None:
        self._request_id = head.request_id
        self._fields = {"id": f"msg_{head.request_id}", "type": "message", "role": "assistant", "model": head.model}
        self._prompt_tokens = prompt_tokens
        self._fills_context = fills_context
        self._blocks: list[dict[str, Any]] = []  # the last one may be open
        self._open = ""  # its type
        self._delta_head = ""
        self._pieces: list[str] = []  # of the open block
        self._call = -1  # that is open, or was the last one
        self._ending: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None, "stop_details": None}

    def whole(
        self, choices: Sequence[Whole], usage: Usage, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        (choice,) = choices
        for read in choice.reads:
            self.delta(Delta(index=0, read=read))
        self.finish(0, choice.end)
        message = self._message(usage)
        return {**message, "timings": timings} if timings is not None else message

    def begin(self, choices: int, usage: Usage | None = None) -> bytes:
        message = self._message(Usage(prompt=self._prompt_tokens, output=0))
        return _event("message_start", {"message": message}) + self.keep_alive

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        read, events = delta.read, []
        if read.reasoning:
            events += [self._turn_to("thinking"), self._add(read.reasoning)]
        if read.text:
            events += [self._turn_to("text"), self._add(read.text)]
        for call in read.calls:
            events += [self._turn_to_call(call), self._add(call.arguments)]
        return b"".join(events)

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        begin = b"" if self._blocks else self._turn_to("text")  # who answers nothing says so
        self._ending["stop_reason"] = _REASONS[end.reason]
        if end.reason == "length" and self._fills_context:
            self._ending["stop_reason"] = "model_context_window_exceeded"
        elif end.reason == "stop" and isinstance(end.stop_reason, str):
            self._ending |= {"stop_reason": "stop_sequence", "stop_sequence": end.stop_reason}
        return begin + self._close()

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        delta: dict[str, Any] = {"delta": self._ending, "usage": _usage_fields(usage)}
        if timings is not None:
            delta["timings"] = timings
        return _event("message_delta", delta) + _event("message_stop", {})

    def problem(self, problem: Problem) -> bytes:
        return b"event: error\ndata: " + error_body(problem, self._request_id) + b"\n\n"

    def _message(self, usage: Usage) -> dict[str, Any]:
        return {**self._fields, "content": self._blocks, **self._ending, "usage": _usage_fields(usage)}

    def _turn_to(self, kind: str) -> bytes:
        """Opens a block of text or thinking, unless it is open."""
        if self._open == kind:
            return b""
        empty = {"type": "text", "text": "", "citations": None} if kind == "text" else _thinking("", "")
        return self._close() + self._begin(empty, f"{kind}_delta", kind)

    def _turn_to_call(self, call: CallDelta) -> bytes:
        if call.index == self._call:
            return b""
        assert call.name is not None, "a call begins with its name"
        closed, self._call = self._close(), call.index
        call_id = (call.id or f"{self._request_id}_{call.index}").removeprefix("call_")
        block = {"type": "tool_use", "id": f"toolu_{call_id}", "name": call.name, "input": {}}
        return closed + self._begin(block, "input_json_delta", "partial_json")

    def _begin(self, block: dict[str, Any], delta: str, field: str) -> bytes:
        index = len(self._blocks)
        self._blocks.append(block)
        self._open = block["type"]
        place = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{delta}","{field}":'
        self._delta_head = f"event: content_block_delta\ndata: {place}"
        return _event("content_block_start", {"index": index, "content_block": block})

    def _add(self, text: str) -> bytes:
        if not text:
            return b""
        self._pieces.append(text)
        return f"{self._delta_head}{quote(text)}}}}}\n\n".encode()

    def _close(self) -> bytes:
        """Completes the open block."""
        if not self._open:
            return b""
        index, text, events = len(self._blocks) - 1, "".join(self._pieces), b""
        block = self._blocks[-1]
        match self._open:
            case "text":
                block["text"] = text
            case "tool_use":
                block["input"] = _input(text)
            case "thinking":
                # Clients pass only signed thoughts on. Nobody checks it, because nothing depends on it.
                signature = hashlib.sha256(text.encode()).hexdigest()
                self._blocks[-1] = _thinking(text, signature)
                delta = {"type": "signature_delta", "signature": signature}
                events = _event("content_block_delta", {"index": index, "delta": delta})
        self._open = ""
        self._pieces.clear()
        return events + _event("content_block_stop", {"index": index})


def _event(kind: str, fields: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {quote({'type': kind, **fields})}\n\n".encode()


def _thinking(text: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature}


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object, as far as the model got; what is no object at all stands in one."""
    try:
        value = from_json(arguments or "{}", allow_partial=True)
        json.dumps(value, allow_nan=False)  # an infinity would not be JSON in the answer
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _usage_fields(usage: Usage) -> dict[str, Any]:
    """Anthropic's input tokens are those that no cache had."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
    }
