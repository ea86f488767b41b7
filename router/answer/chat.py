"""A chat completion: the answer whole, or as chunks. Tens of thousands of chunks a second pass here: what is fixed is
made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.answer.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from router.answer.shape import Call, CallDelta, Delta, End, Head, Read, Usage, Whole
from router.http import sse
from router.http.sse import quote
from router.problems import Problem


class ChatShape:
    """OpenAI's `chat.completion` and `chat.completion.chunk`.

    Args:
        head: of the answer.
        with_usage: the stream ends with the usage, and all its other chunks have it as null.
        with_token_ids: choices have "token_ids", and the answer "prompt_token_ids".
        prompt_ids: of the prompt, for that.
        with_logprobs: of the tokens that the text is made of.
        with_prompt_logprobs: the answer has "prompt_logprobs", in vLLM's form.
        tokens_as_ids: logprobs name tokens by their ids.
        named_tool: a tool call was asked for by name. Such an answer ends with "stop" at OpenAI and vLLM.
    """

    keep_alive = sse.KEEP_ALIVE

    def __init__(
        self,
        head: Head,
        *,
        with_usage: bool,
        with_token_ids: bool,
        prompt_ids: Sequence[int],
        with_logprobs: bool = False,
        with_prompt_logprobs: bool = False,
        tokens_as_ids: bool = False,
        named_tool: bool = False,
    ) -> None:
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
        self._named_tool = named_tool
        self._with_logprobs = with_logprobs
        self._with_prompt_logprobs = with_prompt_logprobs
        self._names = TokenNames(head.token_bytes, as_ids=tokens_as_ids)

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
        if self._with_prompt_logprobs:
            answer["prompt_logprobs"] = prompt_logprobs(self._prompt_ids, choices[0].prompt_logprobs, self._names)
        if timings is not None:
            answer["timings"] = timings
        return answer

    def _choice(self, choice: Whole) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": choice.index,
            "message": _message(choice),
            "logprobs": self._logprobs(choice) if self._with_logprobs else None,
            "finish_reason": self._reason(choice.end),
            "stop_reason": choice.end.stop_reason,
        }
        if self._with_token_ids:
            shown["token_ids"] = choice.token_ids
        return shown

    def _reason(self, end: End) -> str:
        return "stop" if self._named_tool and end.reason == "tool_calls" else end.reason

    def _logprobs(self, tokens: Whole | Delta) -> dict[str, Any]:
        return {"content": chat_logprobs(tokens.token_ids, tokens.logprobs, self._names), "refusal": None}

    def begin(self, choices: int, usage: Usage | None = None) -> bytes:
        delta = '{"role":"assistant","content":""}'
        ids = f',"prompt_token_ids":{quote(list(self._prompt_ids))}' if self._with_token_ids else ""
        return b"".join(
            self._chunk(f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}', usage, more=ids)
            for index in range(choices)
        )

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        ids = f',"token_ids":{quote(list(delta.token_ids))}' if self._with_token_ids else ""
        logprobs = quote(self._logprobs(delta)) if delta.logprobs else "null"
        *others, last = _deltas(delta.read)
        chunks = [
            self._chunk(f'{{"index":{delta.index},"delta":{other},"logprobs":null,"finish_reason":null}}', usage)
            for other in others
        ]
        choice = f'{{"index":{delta.index},"delta":{last},"logprobs":{logprobs},"finish_reason":null{ids}}}'
        return b"".join([*chunks, self._chunk(choice, usage)])

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        reason = f'"finish_reason":{quote(self._reason(end))},"stop_reason":{quote(end.stop_reason)}'
        return self._chunk(f'{{"index":{index},"delta":{{}},"logprobs":null,{reason}}}', usage)

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        if not self._with_usage and timings is None:
            return sse.DONE
        return self._chunk("", usage if self._with_usage else None, timings) + sse.DONE

    def problem(self, problem: Problem) -> bytes:
        return b"data: " + problem.body() + b"\n\n"

    def _chunk(
        self, choice: str, usage: Usage | None = None, timings: Mapping[str, float] | None = None, *, more: str = ""
    ) -> bytes:
        tail = f',"usage":{quote(usage_fields(usage))}' if usage is not None else self._no_usage
        if timings is not None:
            tail += f',"timings":{quote(timings)}'
        return f'{self._head},"choices":[{choice}]{tail}{more}}}\n\n'.encode()


def _message(choice: Whole) -> dict[str, Any]:
    """Content is null if there is something else in its place. Reasoning has two names: DeepSeek's and OpenRouter's."""
    content = choice.text or (None if choice.calls or choice.reasoning else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
    if choice.calls:
        message["tool_calls"] = [_call(call) for call in choice.calls]
    return message


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _deltas(read: Read) -> list[str]:
    """One for each kind of thing: many clients look for the next kind only if the one before is not there."""
    shown = []
    if read.reasoning:
        reasoning = quote(read.reasoning)
        shown.append(f'{{"reasoning_content":{reasoning},"reasoning":{reasoning}}}')
    if read.text or not (read.reasoning or read.calls):
        shown.append(f'{{"content":{quote(read.text)}}}')
    if read.calls:
        shown.append(quote({"tool_calls": [_call_delta(call) for call in read.calls]}))
    return shown


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """OpenAI's spelling of it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "image_tokens": usage.visual},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
