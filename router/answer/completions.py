"""A completion: the answer whole, or as chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.pb import language_pb2
from router.answer.chat import usage_fields
from router.answer.logprobs import LegacyLogprobs, LegacyRow, TokenNames, columns, prompt_logprobs
from router.answer.shape import Delta, End, Head, Usage, Whole
from router.http import sse
from router.http.sse import quote
from router.problems import Problem


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """What of it is shown besides text."""

    with_usage: bool = False  # the stream ends with the usage, and all its other chunks have it as null
    with_token_ids: bool = False  # choices have "token_ids" and "prompt_token_ids"
    echo: bool = False  # the prompt comes before the text
    logprobs: int | None = None  # likeliest tokens in the place of each one
    prompt_logprobs: bool = False  # in vLLM's form
    tokens_as_ids: bool = False


@dataclass(frozen=True, kw_only=True)
class EchoedPrompt:
    """As an answer shows it."""

    text: str
    ids: Sequence[int]


class CompletionShape:
    """OpenAI's `text_completion`.

    Args:
        head: of the answer.
        options: see there.
        prompts: one for each choice.
    """

    keep_alive = sse.KEEP_ALIVE

    def __init__(self, head: Head, options: CompletionOptions, prompts: Sequence[EchoedPrompt]) -> None:
        self._fields = {
            "id": f"cmpl-{head.request_id}",
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._head = "data: " + quote(self._fields)[:-1]
        self._options = options
        self._no_usage = ',"usage":null' if options.with_usage else ""
        self._prompts = prompts
        self._untold = set(range(len(prompts))) if options.with_token_ids else set()  # prompts, of a stream
        self._names = TokenNames(head.token_bytes, as_ids=options.tokens_as_ids)
        self._logprobs = [LegacyLogprobs(self._names, options.logprobs or 0) for _ in prompts]

    def whole(
        self, choices: Sequence[Whole], usage: Usage, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        answer = {**self._fields, "choices": [self._choice(choice) for choice in choices], "usage": usage_fields(usage)}
        if timings is not None:
            answer["timings"] = timings
        return answer

    def _choice(self, choice: Whole) -> dict[str, Any]:
        options, prompt = self._options, self._prompts[choice.index]
        rows: list[LegacyRow] = []
        if options.echo and options.logprobs is not None:
            rows += self._prompt_rows(choice.index, choice.prompt_logprobs)
        rows += self._rows(choice.index, choice.token_ids, choice.logprobs)
        shown: dict[str, Any] = {
            "index": choice.index,
            "text": prompt.text + choice.text if options.echo else choice.text,
            "logprobs": columns(rows) if options.logprobs is not None else None,
            "finish_reason": choice.end.reason,
            "stop_reason": choice.end.stop_reason,
        }
        if options.prompt_logprobs:
            shown["prompt_logprobs"] = prompt_logprobs(prompt.ids, choice.prompt_logprobs, self._names)
        if options.with_token_ids:
            shown |= {"token_ids": choice.token_ids, "prompt_token_ids": prompt.ids}
        return shown

    def begin(self, choices: int, usage: Usage | None = None) -> bytes:
        if not self._options.echo or self._options.logprobs is not None:
            return b""
        return b"".join(self._text(index, self._prompts[index].text, [], usage=usage) for index in range(choices))

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        if delta.prompt_logprobs is not None:
            rows = self._prompt_rows(delta.index, delta.prompt_logprobs)
            return self._text(delta.index, self._prompts[delta.index].text, rows, usage=usage)
        rows = self._rows(delta.index, delta.token_ids, delta.logprobs)
        return self._text(delta.index, delta.read.text, rows, delta.token_ids, usage)

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        reason = f'"finish_reason":{quote(end.reason)},"stop_reason":{quote(end.stop_reason)}'
        return self._chunk(f'{{"index":{index},"text":"","logprobs":null,{reason}}}', usage)

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        if not self._options.with_usage and timings is None:
            return sse.DONE
        return self._chunk("", usage if self._options.with_usage else None, timings) + sse.DONE

    def problem(self, problem: Problem) -> bytes:
        return b"data: " + problem.body() + b"\n\n"

    def _rows(
        self, index: int, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs | None]
    ) -> list[LegacyRow]:
        return self._logprobs[index].output(tokens, logprobs) if logprobs else []

    def _prompt_rows(self, index: int, logprobs: Sequence[language_pb2.TokenLogprobs]) -> list[LegacyRow]:
        prompt = self._prompts[index]
        return self._logprobs[index].prompt(prompt.ids, logprobs, len(prompt.text))

    def _text(
        self, index: int, text: str, rows: Sequence[LegacyRow], ids: Sequence[int] = (), usage: Usage | None = None
    ) -> bytes:
        logprobs = quote(columns(rows)) if rows else "null"
        shown_ids = f',"token_ids":{quote(list(ids))}' if self._options.with_token_ids else ""
        if index in self._untold:
            self._untold.remove(index)
            shown_ids += f',"prompt_token_ids":{quote(list(self._prompts[index].ids))}'
        choice = f'{{"index":{index},"text":{quote(text)},"logprobs":{logprobs},"finish_reason":null{shown_ids}}}'
        return self._chunk(choice, usage)

    def _chunk(self, choice: str, usage: Usage | None = None, timings: Mapping[str, float] | None = None) -> bytes:
        tail = f',"usage":{quote(usage_fields(usage))}' if usage is not None else self._no_usage
        if timings is not None:
            tail += f',"timings":{quote(timings)}'
        return f'{self._head},"choices":[{choice}]{tail}}}\n\n'.encode()
