"""A chat completion: the answer whole, or as chunks. Tens of thousands of chunks a second pass here: what is fixed is
made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.answer.shape import Delta, End, Head, Usage, Whole
from router.http import sse
from router.http.sse import quote


class ChatShape:
    """OpenAI's `chat.completion` and `chat.completion.chunk`.

    Args:
        head: of the answer.
        with_usage: the stream ends with the usage, and all its other chunks have it as null.
        with_token_ids: choices have "token_ids", and the answer "prompt_token_ids".
        prompt_ids: of the prompt, for that.
    """

    keep_alive = sse.KEEP_ALIVE

    def __init__(self, head: Head, *, with_usage: bool, with_token_ids: bool, prompt_ids: Sequence[int]) -> None:
        self._fields = {
            "id": f"chatcmpl-{head.request_id}",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._head = "data: " + quote({**self._fields, "object": "chat.completion.chunk"})[:-1]
        self._with_usage = with_usage
        self._no_usage = ',"usage":null' if with_usage else ""
        self._with_token_ids = with_token_ids
        self._prompt_ids = prompt_ids

    def whole(
        self, choices: Sequence[Whole], usage: Usage, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {
            **self._fields,
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage_fields(usage),
        }
        if self._with_token_ids:
            answer["prompt_token_ids"] = self._prompt_ids
        if timings is not None:
            answer["timings"] = timings
        return answer

    def _choice(self, choice: Whole) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": None,
            "finish_reason": choice.end.reason,
            "stop_reason": choice.end.stop_reason,
        }
        if self._with_token_ids:
            shown["token_ids"] = choice.token_ids
        return shown

    def begin(self, choices: int) -> bytes:
        delta = '{"role":"assistant","content":""}'
        return b"".join(
            self._chunk(f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}')
            for index in range(choices)
        )

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        ids = f',"token_ids":{quote(list(delta.token_ids))}' if self._with_token_ids else ""
        return self._chunk(
            f'{{"index":{delta.index},"delta":{{"content":{quote(delta.text)}}},"logprobs":null,"finish_reason":null{ids}}}',
            usage,
        )

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        reason = f'"finish_reason":{quote(end.reason)},"stop_reason":{quote(end.stop_reason)}'
        return self._chunk(f'{{"index":{index},"delta":{{}},"logprobs":null,{reason}}}', usage)

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        if not self._with_usage and timings is None:
            return sse.DONE
        return self._chunk("", usage if self._with_usage else None, timings) + sse.DONE

    def _chunk(self, choice: str, usage: Usage | None = None, timings: Mapping[str, float] | None = None) -> bytes:
        tail = f',"usage":{quote(usage_fields(usage))}' if usage is not None else self._no_usage
        if timings is not None:
            tail += f',"timings":{quote(timings)}'
        return f'{self._head},"choices":[{choice}]{tail}}}\n\n'.encode()


def usage_fields(usage: Usage) -> dict[str, Any]:
    """OpenAI's spelling of it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "image_tokens": usage.visual},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
