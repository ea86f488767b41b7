"""The router as a process: application, start, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import __version__
from common.config import describe
from common.lifecycle import Shutdown
from common.state import write_state
from router.config import RouterConfig
from router.http.routes import make_routes, request_id_of, request_schemas
from router.problems import Problem
from router.services import Services, make_services

log = logging.getLogger(__name__)

_CLOSE_S = 5  # for connections to end after the last answer
_WAITING_LOG_S = 10.0


def create_app(services: Services) -> ASGIApp:
    """The HTTP application."""
    app = _Application(title="epd-serve", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(make_routes(services))

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        headers = {**error.headers, "content-type": "application/json"}
        return Response(error.body(), status_code=error.status, headers=headers)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: f"there is no {request.url.path}", 405: f"{request.method} is not allowed here"}
        problem = Problem(
            error.status_code, messages.get(error.status_code, error.detail), code=_CODES.get(error.status_code)
        )
        response = await on_problem(request, problem)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    return RequestIds(app)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(request_schemas())
        return document


_CODES = {404: "not_found", 405: "method_not_allowed"}


class RequestIds:
    """Gives every request an id: `request.state.request_id`, and X-Request-Id in the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Request(scope))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


async def serve(config: RouterConfig) -> int:
    """Runs the router until it is asked to end; returns the exit code."""
    log.info("router %s: %s", __version__, describe(config))
    with Shutdown() as shutdown, _listen(config) as listener:
        async with make_services(config) as services:
            server = _Server(
                uvicorn.Config(
                    create_app(services),
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    server_header=False,
                    timeout_graceful_shutdown=_CLOSE_S,
                )
            )
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            host, port = listener.getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            write_state(config.state_file, "router", {"http": address})
            log.info("listening on http://%s", address)
            waiting = asyncio.create_task(_log_waiting(services))
            stopping = asyncio.create_task(shutdown.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if serving.done():
                stopping.cancel()
                serving.result()
                return 1
            log.info("finishing %d requests", services.gate.running)
            await services.gate.drain(config.drain_seconds)
            server.should_exit = True
            await serving
    return 0


class _Server(uvicorn.Server):
    """Leaves the signals to `Shutdown`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(config: RouterConfig) -> socket.socket:
    """Raises OSError if the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return socket.create_server((config.host, config.port), family=family, backlog=2048)


async def _log_waiting(services: Services) -> None:
    """Says what is waited for, now and then, until all is there."""
    while not (state := services.fleet.readiness()).image:
        log.info("waiting for: %s", "; ".join(state.waiting_for) or "servers")
        await asyncio.sleep(_WAITING_LOG_S)
    log.info("ready: text%s", " and images" if services.fleet.has_vision else "")
