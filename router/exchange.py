"""One chat completion over HTTP: body in, answer or stream out, and everything given back at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.errors import EPDError, OverloadedError, UnavailableError
from router import sse
from router.auth import Keys
from router.body import Body, parse_json
from router.budget import ByteBudget, Hold
from router.config import RouterConfig
from router.dispatcher import Dispatcher
from router.fleet import Fleet
from router.generation import Choice, ClientLeft, Generation, ItemError, Silence
from router.grids import GridMemory
from router.metrics import RouterMetrics
from router.problems import Problem, problem_of
from router.schemas import ChatRequest, parse_chat_request

log = logging.getLogger(__name__)

TIMINGS = ("fetch", "preprocess", "vision", "transfer", "prefill", "decode", "queue")
_SHOWN_FIELDS = 32  # in X-Ignored-Fields


class Gate:
    """Counts the requests in progress and refuses what is too much.

    Args:
        limit: requests at the same time.
        metrics: shows the count.
    """

    def __init__(self, limit: int, metrics: RouterMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._empty = asyncio.Event()
        self._empty.set()
        self.running = 0
        self.draining = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises UnavailableError while the router shuts down, OverloadedError when it is full."""
        if self.draining:
            raise UnavailableError("this router is shutting down")
        if self.running >= self._limit:
            raise OverloadedError(f"{self._limit} requests are in progress, which is as many as this router takes")
        self.running += 1
        self._empty.clear()
        self._metrics.running.set(self.running)
        try:
            yield
        finally:
            self.running -= 1
            self._metrics.running.set(self.running)
            if not self.running:
                self._empty.set()

    async def empty(self) -> None:
        """Waits until nothing is in progress."""
        await self._empty.wait()


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes share."""

    config: RouterConfig
    keys: Keys
    fleet: Fleet
    dispatcher: Dispatcher
    metrics: RouterMetrics
    budget: ByteBudget
    grids: GridMemory
    gate: Gate

    @property
    def model_names(self) -> tuple[str, ...]:
        """Empty as long as nobody knows."""
        if self.config.served_model_name or self.fleet.model is None:
            return self.config.served_model_name
        info = self.fleet.model.info
        return (info.name or info.architecture,)


class ChatExchange(Response):
    """The answer to one chat completion, which does all the work when it is sent.

    Args:
        services: of the application.
        request: whose body has not been read.
        request_id: shown to the client and in all logs.
    """

    def __init__(self, services: Services, request: Request, request_id: str) -> None:
        super().__init__()
        self._services = services
        self._request = request
        self._id = request_id
        self._began = time.monotonic()
        self._generation: Generation | None = None
        self._sent_head = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        incoming = Body(receive, self._request.headers)
        try:
            async with AsyncExitStack() as stack:
                status = await self._serve(stack, incoming, receive, send)
        except Problem as problem:
            status = await self._fail(problem, incoming, send)
        except (EPDError, ItemError) as error:
            status = await self._fail(problem_of(error), incoming, send)
        except Exception:  # a process boundary: a fault of ours ends this request only
            log.exception("unexpected error", extra={"request_id": self._id})
            status = await self._fail(Problem(500, "the server failed to answer this request"), incoming, send)
        finally:
            self._report(status)

    async def _serve(self, stack: AsyncExitStack, incoming: Body, receive: Receive, send: Send) -> int:
        services = self._services
        salt = services.keys.salt(self._request.headers.get("authorization"))
        stack.enter_context(services.gate.enter())
        hold = Hold(services.budget)
        stack.callback(hold.release)
        body = await incoming.read(limit=services.config.max_body_bytes, hold=hold)
        parsed = parse_chat_request(await parse_json(body), max_choices=services.config.max_choices)
        request = parsed.request
        self._check_model(request)
        generation = self._generation = Generation(
            fleet=services.fleet,
            config=services.config,
            metrics=services.metrics,
            grids=services.grids,
            request_id=self._id,
            salt=salt,
        )
        stack.push_async_callback(generation.close, "the request has ended")
        watcher = asyncio.create_task(_watch(receive, generation))
        stack.callback(watcher.cancel)
        plan = await services.dispatcher.plan(request, generation, salt=salt, hold=hold)
        # The media live on as bytes; what they were sent in is not needed any more.
        hold.remove(len(body))
        request = request.model_copy(update={"messages": []})
        ignored = parsed.ignored
        del body, parsed
        generation.start(plan)
        await generation.settled()
        headers = {}
        if ignored:
            services.metrics.ignored_fields.inc(len(ignored))
            headers["x-ignored-fields"] = _header_value(ignored)
        answer = _Answer(request, generation, self._id, services)
        if not request.stream:
            content = await answer.whole()
            await _respond(send, 200, {**headers, "content-type": "application/json"}, content)
            return 200
        await _send_head(send, 200, {**headers, **sse.HEADERS})
        self._sent_head = True
        async for events in answer.events(services.config.keep_alive_seconds):
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return 200

    def _check_model(self, request: ChatRequest) -> None:
        names = self._services.model_names
        if request.model is not None and names and request.model not in names:
            message = f"The model {request.model!r} does not exist; this server has {', '.join(names)}"
            raise Problem(404, message, param="model", code="model_not_found")

    async def _fail(self, problem: Problem, incoming: Body, send: Send) -> int:
        if problem.status == 499:
            return 499  # nobody is there to hear it
        if self._sent_head:
            await send({"type": "http.response.body", "body": sse.error_event(problem.body()), "more_body": False})
        else:
            await incoming.discard()
            headers = {**problem.headers, "content-type": "application/json"}
            await _respond(send, problem.status, headers, problem.body())
        if problem.status >= 429:
            log.warning("%d %s", problem.status, problem.message, extra={"request_id": self._id})
        return problem.status

    def _report(self, status: int) -> None:
        metrics = self._services.metrics
        if status == 499:
            metrics.aborted.inc()
        elif status == 200:
            metrics.finished.inc()
        else:
            metrics.failed.labels(str(status)).inc()
        fields: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - self._began, 3)}
        generation = self._generation
        if generation is not None and generation.choices:
            tokens = sum(len(choice.output.ids) for choice in generation.choices)
            metrics.prompt_tokens.inc(len(generation.plan.prompt.ids))
            metrics.output_tokens.inc(tokens)
            for stage, milliseconds in generation.timings.items():
                metrics.stage.labels(stage).observe(milliseconds / 1000)
            fields |= {
                "prompt_tokens": len(generation.plan.prompt.ids),
                "cached_tokens": generation.cached_tokens,
                "output_tokens": tokens,
                "first_token": round(generation.first_token_s, 3) if generation.first_token_s is not None else None,
            }
        log.info("chat completion", extra={"request_id": self._id, **fields})


class _Answer:
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


async def _watch(receive: Receive, generation: Generation) -> None:
    """Waits for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.mailbox.post(ClientLeft())


def _header_value(names: tuple[str, ...]) -> str:
    """Names are a stranger's text: what a header can't carry is left out."""
    shown = ", ".join(names[:_SHOWN_FIELDS])
    return "".join(character for character in shown if 32 <= ord(character) < 127)[:2048]


async def _send_head(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await _send_head(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body, "more_body": False})
