"""A response: the answer whole, or as events. One machine makes both, so that they can't differ."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.pb import language_pb2
from router.answer.logprobs import PlacedLogprobs, TokenNames
from router.answer.response_items import MESSAGE, REASONING, SUMMARY, CallItem, Events, TextItem, TextKind
from router.answer.shape import CallDelta, Delta, End, Head, Usage, Whole
from router.http import sse
from router.problems import Problem


class ResponsesShape:
    """OpenAI's `response` and its streaming events.

    Args:
        head: of the answer.
        echo: fields of the request that the response shows again.
        sampling: of the request, for what it did not say.
        summary: reasoning stands where summaries do.
        with_logprobs: of the message.
    """

    keep_alive = sse.KEEP_ALIVE

    def __init__(
        self,
        head: Head,
        *,
        echo: Mapping[str, Any],
        sampling: language_pb2.SamplingParams,
        summary: bool,
        with_logprobs: bool,
    ) -> None:
        self._id = head.request_id
        self._fields = {
            "id": f"resp_{head.request_id}",
            "object": "response",
            "created_at": head.created,
            "model": head.model,
            **echo,
            "temperature": round(sampling.temperature, 6),  # a double of a float
            "top_p": round(sampling.top_p, 6),
        }
        self._reasoning = SUMMARY if summary else REASONING
        self._logprobs = PlacedLogprobs(TokenNames(head.token_bytes))
        self._with_logprobs = with_logprobs
        self._events = Events()
        self._done: list[dict[str, Any]] = []
        self._open: TextItem | CallItem | None = None
        self._call = -1  # that is open, or was the last one
        self._end = End(reason="stop", stop_reason=None)

    def whole(
        self, choices: Sequence[Whole], usage: Usage, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        (choice,) = choices
        self.delta(Delta(index=0, token_ids=choice.token_ids, logprobs=choice.logprobs))
        for read in choice.reads:
            self.delta(Delta(index=0, read=read))
        self.finish(0, choice.end)
        return self._response(self._status, usage, timings)

    def begin(self, choices: int, usage: Usage | None = None) -> bytes:
        response = self._response("in_progress")
        return b"".join(
            self._events.make(kind, {"response": response}) for kind in ("response.created", "response.in_progress")
        )

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        read, events = delta.read, []
        if self._with_logprobs:
            self._logprobs.add(delta.token_ids, delta.logprobs)
        if read.reasoning:
            events += [self._turn_to(self._reasoning), self._add(read.reasoning, [])]
        if read.text:
            logprobs = self._logprobs.of(*read.span) if self._with_logprobs else []
            events += [self._turn_to(MESSAGE), self._add(read.text, logprobs)]
        events += map(self._add_call, read.calls)
        return b"".join(events)

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        self._end = end
        begin = b"" if self._done or self._open else self._turn_to(MESSAGE)  # who answers nothing says so
        if isinstance(self._open, TextItem) and self._open.kind is MESSAGE and (rest := self._logprobs.rest()):
            begin += self._open.add("", rest)
        return begin + self._close(self._status)

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        response = self._response(self._status, usage, timings)
        return self._events.make(f"response.{self._status}", {"response": response})

    def problem(self, problem: Problem) -> bytes:
        make = self._events.make
        error = {"code": problem.code, "message": problem.message, "param": problem.param}
        if self._open is not None:
            self._done.append(self._open.shown("incomplete"))
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        failed = {**self._response("failed"), "error": {"code": code, "message": problem.message}}
        return make("error", error) + make("response.failed", {"response": failed})

    @property
    def _status(self) -> str:
        return "incomplete" if self._end.reason == "length" else "completed"

    def _response(
        self, status: str, usage: Usage | None = None, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        response = {
            **self._fields,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._done,
            "usage": _usage_fields(usage) if usage is not None else None,
        }
        return {**response, "timings": timings} if timings is not None else response

    def _turn_to(self, kind: TextKind) -> bytes:
        """Opens an item of this kind, unless it is open."""
        if isinstance(self._open, TextItem) and self._open.kind is kind:
            return b""
        closed = self._close("completed")
        index = len(self._done)
        prefix = "msg" if kind is MESSAGE else "rs"
        self._open = TextItem(kind, f"{prefix}_{self._id}_{index}", index, self._events)
        return closed + self._open.begin()

    def _add(self, text: str, logprobs: list[dict[str, Any]]) -> bytes:
        assert isinstance(self._open, TextItem)
        return self._open.add(text, logprobs)

    def _add_call(self, call: CallDelta) -> bytes:
        begin = b""
        if call.index != self._call:
            assert call.name is not None, "a call begins with its name"
            begin, self._call = self._close("completed"), call.index
            index = len(self._done)
            call_id = call.id or f"call_{self._id}_{index}"
            self._open = CallItem(call.name, call_id, f"fc_{self._id}_{index}", index, self._events)
            begin += self._open.begin()
        assert isinstance(self._open, CallItem)
        return begin + self._open.add(call.arguments)

    def _close(self, status: str) -> bytes:
        if self._open is None:
            return b""
        item, self._open = self._open, None
        self._done.append(item.shown(status))
        return item.finish(status)


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": 0,
            "image_tokens": usage.visual,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.output,
    }
