"""Runs a generation and shows it in the shape of the API that it came through, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.answer.shape import NOTHING, Delta, End, Shape, Usage, Whole
from router.generation.choice import Choice
from router.generation.generation import Generation, Silence

TIMINGS = ("fetch", "preprocess", "vision", "transfer", "prefill", "decode", "queue")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What of an answer is shown besides text."""

    timings: bool = False
    token_ids: bool = False  # also where no text came of them
    running_usage: bool = False  # in every event of a stream


class Answer:
    """One answer.

    Args:
        generation: started.
        shape: of the API.
        options: see there.
    """

    def __init__(self, generation: Generation, shape: Shape, options: AnswerOptions) -> None:
        self.shape = shape
        self._generation = generation
        self._options = options
        self._readers = {choice.index: choice.plan.reader() for choice in generation.choices}
        self._untold = {c.index for c in generation.choices if c.plan.sampling.HasField("prompt_logprobs")}

    async def whole(self) -> dict[str, Any]:
        """The body of the answer, once it is complete."""
        generation = self._generation
        while not generation.finished:
            await generation.step()
        choices = [self._whole(choice) for choice in generation.choices]
        if self._options.timings:
            await generation.wait_times()
        return self.shape.whole(choices, self._usage(), self._timings())

    async def events(self, keep_alive_seconds: float) -> AsyncIterator[bytes]:
        """Runs of server-sent events: all that one step brought goes out at once."""
        generation, shape = self._generation, self.shape
        open_choices = list(generation.choices)
        silence = _Silence(generation, keep_alive_seconds)
        try:
            yield shape.begin(len(open_choices), self._running_usage())
            while open_choices:
                events: list[bytes] = []
                for choice in tuple(open_choices):
                    if choice.index in self._untold and not choice.knows_prompt:
                        continue
                    self._add_news(choice, events)
                    if choice.finish_reason is not None:
                        open_choices.remove(choice)
                        events.append(shape.finish(choice.index, self._end(choice), self._running_usage()))
                if events:
                    silence.broken()
                    yield b"".join(events)
                if open_choices and await generation.step():
                    yield shape.keep_alive
            if self._options.timings:
                await generation.wait_times()
            yield shape.end(self._usage(), self._timings())
        finally:
            silence.end()

    def _add_news(self, choice: Choice, events: list[bytes]) -> None:
        """What has come for a choice since the last time. This runs for every token: it does no more than it must."""
        index, shape = choice.index, self.shape
        reader = self._readers[index]
        text, ids, logprobs = choice.output.take()
        reads = reader.feed(text, ids) if text or ids else []
        if index in self._untold:
            self._untold.remove(index)
            events.append(shape.delta(Delta(index, prompt_logprobs=choice.prompt_logprobs), self._running_usage()))
        if choice.finish_reason is not None:
            reads += reader.finish()
        if not reads and ids and (self._options.token_ids or any(logprob is not None for logprob in logprobs)):
            reads = [NOTHING]
        for read in reads:
            events.append(shape.delta(Delta(index, read, ids, logprobs), self._running_usage()))
            ids, logprobs = [], []  # they stand beside the first

    def _whole(self, choice: Choice) -> Whole:
        reader = self._readers[choice.index]
        text, ids, logprobs = choice.output.take()
        return Whole(
            index=choice.index,
            reads=[*reader.feed(text, ids), *reader.finish()],
            token_ids=ids,
            logprobs=logprobs,
            end=self._end(choice),
            prompt_logprobs=choice.prompt_logprobs,
        )

    def _end(self, choice: Choice) -> End:
        assert choice.finish_reason is not None
        called = choice.finish_reason == "stop" and self._readers[choice.index].called
        return End(reason="tool_calls" if called else choice.finish_reason, stop_reason=choice.stop_reason)

    def _running_usage(self) -> Usage | None:
        return self._usage() if self._options.running_usage else None

    def _usage(self) -> Usage:
        generation = self._generation
        return Usage(
            prompt=sum(len(plan.prompt.ids) for plan in generation.plans),
            output=sum(len(choice.output.ids) for choice in generation.choices),
            cached=generation.cached_tokens,
            visual=sum(span.rows for plan in generation.plans for span in plan.prompt.spans),
            reasoning=sum(reader.reasoning_tokens for reader in self._readers.values()),
        )

    def _timings(self) -> Mapping[str, float] | None:
        """Milliseconds; a stage that was not needed took none."""
        if not self._options.timings:
            return None
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
