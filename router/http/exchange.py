"""One request over HTTP: body in, answer or stream out, and everything given back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Generic

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.errors import DeadlineError, EPDError, UnavailableError
from common.logs import whereabouts
from router.answer.answer import Answer
from router.answer.shape import Head, Shape
from router.api.paths import UNCHANGED
from router.api.request import Parsed
from router.endpoints.endpoint import Endpoint, PromptEndpoint, RequestT
from router.generation.choice import Plan
from router.generation.generation import ClientLeft, Generation
from router.http import sse
from router.http.body import Body, parse_json
from router.http.pins import pins_of
from router.media.budget import Hold
from router.problems import ItemError, Problem, problem_of
from router.services import Services
from router.stages import Stages

log = logging.getLogger(__name__)

_THREAD_BYTES = 1 << 15  # from here on parsing leaves the event loop
_LAST_WORD_S = 3.0  # to tell the client what failed
# Fields of the log's line, as attributes of the span.
_ATTRIBUTES = {
    "status": "http.response.status_code",
    "outcome": "epd.outcome",
    "code": "error.type",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "epd.cached_tokens",
    "first_token": "epd.first_token_seconds",
}


class Exchange(Response, Generic[RequestT]):
    """The answer to one request, which does all the work when it is sent.

    Args:
        services: of the application.
        endpoint: the API that it came through.
        request: whose body has not been read.
        request_id: shown to the client and in all logs.
    """

    def __init__(
        self,
        services: Services,
        endpoint: Endpoint[RequestT] | PromptEndpoint[RequestT],
        request: Request,
        request_id: str,
    ) -> None:
        super().__init__()
        self._services = services
        self._endpoint = endpoint
        self._request = request
        self._id = request_id
        self._began = time.monotonic()
        self._deadline = asyncio.get_running_loop().time() + services.config.request_timeout_seconds
        name = f"{request.method} {request.scope['path']}"
        self._stages = Stages(services.metrics, services.tracing.serve(name, request.scope["headers"]))
        self._generation: Generation | None = None
        self._problem: Problem | None = None  # what it ended in
        self._fault = ""  # of ours, that led to it
        self._paths = UNCHANGED
        self._shape: Shape | None = None  # once the stream has begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        incoming = Body(receive, self._request.headers)
        try:
            async with asyncio.timeout_at(self._deadline) as limit, AsyncExitStack() as stack:
                status = await self._serve(stack, limit, incoming, receive, send)
        except TimeoutError:
            status = await self._fail(problem_of(self._time_up()), incoming, send)
        except Problem as problem:
            status = await self._fail(problem, incoming, send)
        except (EPDError, ItemError) as error:
            status = await self._fail(problem_of(error), incoming, send)
        except Exception as error:  # noqa: BLE001  a process boundary: a fault of ours ends this request only
            self._fault = whereabouts(error)
            self._services.warn.error("fault", "unexpected error: %s", self._fault, extra={"request_id": self._id})
            status = await self._fail(Problem(500, "the server failed to answer this request"), incoming, send)
        finally:
            self._report(status)

    async def _serve(
        self, stack: AsyncExitStack, limit: asyncio.Timeout, incoming: Body, receive: Receive, send: Send
    ) -> int:
        services, config = self._services, self._services.config
        salt = services.keys.salt(self._request.headers)
        stack.enter_context(services.gate.enter(limit))
        pins = pins_of(self._request.headers, services.fleet)
        hold = Hold(services.budget)
        stack.callback(hold.release)
        with self._stages.stage("body"):
            body = await incoming.read(limit=config.max_body_bytes, hold=hold, timeout=config.body_timeout_seconds)
        with self._stages.stage("parse"):
            parsed = await self._parse(body)
        request = parsed.request
        self._check_model(request.model)
        generation = self._generation = Generation(
            fleet=services.fleet,
            config=config,
            metrics=services.metrics,
            grids=services.grids,
            request_id=self._id,
            salt=salt,
            deadline=self._deadline,
            stages=self._stages,
            pins=pins,
        )
        stack.push_async_callback(generation.close, "the request has ended")
        watcher = asyncio.create_task(_watch(receive, generation))
        stack.callback(watcher.cancel)
        headers = services.unknown_fields.note(parsed.ignored, self._id)
        self._paths = parsed.paths  # what comes from here on speaks of the request as it was translated
        endpoint = self._endpoint
        if isinstance(endpoint, PromptEndpoint):
            shown = await endpoint.answer(request, services.prompter, generation, salt=salt, hold=hold)
            await _respond(send, 200, {**headers, "content-type": "application/json"}, _dump(shown))
            return 200
        plans = await endpoint.plan(request, services.dispatcher, generation, salt=salt, hold=hold)
        answer = self._answer(endpoint, request, generation, plans)
        streams = request.stream
        # The media live on as bytes; what they were sent in is not needed any more.
        hold.remove(len(body))
        del body, parsed, request
        await generation.settled()
        if not streams:
            content = _dump(await answer.whole())
            await _respond(send, 200, {**headers, "content-type": "application/json"}, content)
            return 200
        await _send_head(send, 200, {**headers, **sse.HEADERS})
        self._shape = answer.shape
        async for events in answer.events(config.keep_alive_seconds):
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return 200

    def _answer(
        self, endpoint: Endpoint[RequestT], request: RequestT, generation: Generation, plans: Sequence[Plan]
    ) -> Answer:
        """Starts the generation. What the answer needs of the request it takes now."""
        model = self._services.fleet.model
        assert model is not None
        head = Head(
            request_id=self._id,
            created=int(time.time()),
            model=request.model or self._services.model_names[0],
            fingerprint=f"fp_{model.info.fingerprint.hex()[:12]}",
            token_bytes=model.token_bytes,
        )
        generation.start(plans)
        shape = endpoint.shape(request, head, plans)
        return Answer(generation, shape, endpoint.options(request))

    async def _parse(self, body: bytearray) -> Parsed[RequestT]:
        """Raises Problem (400) that names what is wrong."""

        def parse() -> Parsed[RequestT]:
            return self._endpoint.parse(parse_json(body), max_choices=self._services.config.max_choices)

        return await self._services.threads.run(parse) if len(body) >= _THREAD_BYTES else parse()

    def _check_model(self, name: str | None) -> None:
        names = self._services.model_names
        if name is not None and names and name not in names:
            message = f"The model {name!r} does not exist; this server has {', '.join(names)}"
            raise Problem(404, message, param="model", code="model_not_found")

    def _time_up(self) -> EPDError:
        if self._services.gate.closed:
            return UnavailableError("this router is shutting down")
        return DeadlineError(f"the request took longer than {self._services.config.request_timeout_seconds:g} s")

    async def _fail(self, problem: Problem, incoming: Body, send: Send) -> int:
        self._problem = problem
        if problem.status == 499:
            return 499  # nobody is there to hear it
        problem = self._paths.restore(problem)
        # A client that does not read can't be told: the connection is closed instead.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                if self._shape is not None:
                    events = self._shape.problem(problem)
                    await send({"type": "http.response.body", "body": events, "more_body": False})
                else:
                    headers = {**problem.headers, "content-type": "application/json"}
                    if not await incoming.discard():
                        headers["connection"] = "close"
                    await _respond(send, problem.status, headers, self._endpoint.problem(problem, self._id))
        self._services.refusals.note_key(problem, self._request.scope)
        if problem.status >= 429:
            kind = str(problem.status)
            self._services.warn.warning(kind, "%s %s", kind, problem.message, extra={"request_id": self._id})
        return problem.status

    def _report(self, status: int) -> None:
        metrics, seconds = self._services.metrics, time.monotonic() - self._began
        if status == 499:
            outcome = "aborted"
            metrics.aborted.inc()
        elif status == 200:
            outcome = "finished"
            metrics.finished.inc()
        else:
            outcome = "failed"
            metrics.failed.labels(str(status)).inc()
        metrics.request.labels(self._endpoint.name, outcome).observe(seconds)
        fields: dict[str, Any] = {"outcome": outcome, "status": status, "seconds": round(seconds, 3)}
        if self._problem is not None:
            fields["code"] = self._problem.code
            if status >= 429:  # what is below may quote the client
                fields["error"] = self._fault or self._problem.message
        milliseconds = self._stages.milliseconds
        generation = self._generation
        if generation is not None and generation.choices:
            tokens = sum(len(choice.output.ids) for choice in generation.choices)
            prompt_tokens = sum(len(plan.prompt.ids) for plan in generation.plans)
            metrics.prompt_tokens.inc(prompt_tokens)
            metrics.output_tokens.inc(tokens)
            milliseconds = {**milliseconds, **generation.timings}
            fields |= {
                "prompt_tokens": prompt_tokens,
                "cached_tokens": generation.cached_tokens,
                "output_tokens": tokens,
                "first_token": round(generation.first_token_s, 3) if generation.first_token_s is not None else None,
            }
        self._end_span(fields)
        fields["stages_ms"] = {stage: round(value, 1) for stage, value in milliseconds.items()}
        log.info(self._endpoint.name, extra={"request_id": self._id, **fields})

    def _end_span(self, fields: dict[str, Any]) -> None:
        """The trace's root, with what the log is told; `fields` then say where it is found."""
        span = self._stages.span
        if not span.is_recorded:
            return
        named = {
            _ATTRIBUTES[name]: value for name, value in fields.items() if name in _ATTRIBUTES and value is not None
        }
        span.set({"epd.request_id": self._id, "http.request.method": self._request.method, **named})
        if fields["status"] >= 500:  # not what the client did wrong: conventions of OpenTelemetry
            span.fail(str(fields.get("code", "cancelled")))
        span.end()
        fields["trace_id"] = span.trace_id


async def _watch(receive: Receive, generation: Generation) -> None:
    """Waits for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.mailbox.post(ClientLeft())


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


async def _send_head(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _respond(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await _send_head(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body, "more_body": False})
