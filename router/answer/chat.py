"""What a generation looks like in OpenAI's shape, whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from router.api.chat import ChatRequest
from router.generation.choice import Choice
from router.generation.generation import Generation, Silence
from router.http import sse
from router.services import Services

TIMINGS = ("fetch", "preprocess", "vision", "transfer", "prefill", "decode", "queue")


class Answer:
    """What a generation looks like in OpenAI's shape."""

    def __init__(self, request: ChatRequest, generation: Generation, request_id: str, services: Services) -> None:
        self._request = request
        self._generation = generation
        model = services.fleet.model
        assert model is not None
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": request.model or services.model_names[0],
            "system_fingerprint": f"fp_{model.info.fingerprint.hex()[:12]}",
        }

    async def whole(self) -> bytes:
        generation, request = self._generation, self._request
        while not generation.finished:
            await generation.step()
        answer: dict[str, Any] = {**self._head, "object": "chat.completion", "choices": []}
        for choice in generation.choices:
            text, ids = choice.output.take()
            shown: dict[str, Any] = {
                "index": choice.index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            if request.return_token_ids:
                shown["token_ids"] = ids
            answer["choices"].append(shown)
        answer["usage"] = self._usage()
        if request.return_token_ids:
            answer["prompt_token_ids"] = generation.plan.prompt.ids
        if request.return_timings:
            await generation.wait_times()
            answer["timings"] = self._timings()
        return json.dumps(answer, ensure_ascii=False).encode()

    async def events(self, keep_alive_seconds: float) -> AsyncIterator[bytes]:
        """Runs of server-sent events: all that one step brought goes out at once."""
        generation, request = self._generation, self._request
        options = request.stream_options
        with_usage = options is not None and options.include_usage
        running_usage = with_usage and options is not None and options.continuous_usage_stats
        chunks = sse.ChatChunks(self._head, with_usage=with_usage)
        open_choices = list(generation.choices)
        silence = _Silence(generation, keep_alive_seconds)
        try:
            yield b"".join(chunks.role(choice.index) for choice in open_choices)
            while open_choices:
                if request.return_timings and generation.finished:
                    await generation.wait_times()
                events = []
                for choice in list(open_choices):
                    text, ids = choice.output.take()
                    usage = self._usage() if running_usage and ids else None
                    if text or (ids and request.return_token_ids):
                        shown_ids = ids if request.return_token_ids else None
                        events.append(chunks.text(choice.index, text, token_ids=shown_ids, usage=usage))
                    if choice.finish_reason is not None:
                        open_choices.remove(choice)
                        events.append(self._finish(chunks, choice, running_usage, not open_choices and not with_usage))
                if events:
                    silence.broken()
                    yield b"".join(events)
                if open_choices and await generation.step():
                    yield sse.KEEP_ALIVE
            if with_usage:
                timings = self._timings() if request.return_timings else None
                yield chunks.usage(self._usage(), timings=timings)
            yield sse.DONE
        finally:
            silence.end()

    def _finish(self, chunks: sse.ChatChunks, choice: Choice, with_usage: bool, with_timings: bool) -> bytes:
        assert choice.finish_reason is not None
        return chunks.finish(
            choice.index,
            choice.finish_reason,
            choice.stop_reason,
            usage=self._usage() if with_usage else None,
            timings=self._timings() if with_timings and self._request.return_timings else None,
        )

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._generation.plan.prompt.ids)
        output = sum(len(choice.output.ids) for choice in self._generation.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": self._generation.cached_tokens},
        }

    def _timings(self) -> dict[str, float]:
        """Milliseconds; a stage that was not needed took none."""
        times = self._generation.collect_times()
        return {stage: round(times.get(stage, 0.0), 3) for stage in TIMINGS}


class _Silence:
    """Tells the generation's mailbox whenever nothing was sent for a while."""

    def __init__(self, generation: Generation, interval: float) -> None:
        self._mailbox = generation.mailbox
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(interval, self._look)

    def broken(self) -> None:
        self._last = self._loop.time()

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        # Looking now and then is cheaper than setting a timer for every token.
        now = self._loop.time()
        if now - self._last >= self._interval:
            self._mailbox.post(Silence())
            self._last = now
        self._timer = self._loop.call_at(self._last + self._interval, self._look)
