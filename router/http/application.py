"""The HTTP application: its paths, and answers in one shape to whatever goes wrong on the way to them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from common import __version__
from router.http import openapi
from router.http.edge import Edge
from router.http.errors import error_response
from router.http.routes import BODIES, make_routes
from router.problems import Problem
from router.services import Services

_CODES = {404: "not_found", 405: "method_not_allowed"}
_EXPOSED = ("X-Request-Id", "X-Ignored-Fields", "Retry-After")  # header fields that scripts in a browser may read


def create_app(services: Services) -> ASGIApp:
    """The HTTP application."""
    app = _Application(with_keys=services.keys.needed)
    app.include_router(make_routes(services))

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        services.refusals.note(error, request.scope)
        return error_response(error, request.url.path, request.state.request_id)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: f"there is no {request.url.path}", 405: f"{request.method} is not allowed here"}
        problem = Problem(
            error.status_code, messages.get(error.status_code, error.detail), code=_CODES.get(error.status_code)
        )
        response = await on_problem(request, problem)
        response.headers.update(error.headers or {})
        return response

    async def on_fault(request: Request, error: Exception) -> Response:
        """Of ours; the HTTP server logs it."""
        return await on_problem(request, Problem(500, "the server failed to answer this request"))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_fault)
    inside: ASGIApp = app
    if services.config.cors_origins:
        inside = CORSMiddleware(
            app,
            allow_origins=services.config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
    return Edge(
        inside,
        max_header_bytes=services.config.max_header_bytes,
        leaving=lambda: services.gate.draining,
        refusals=services.refusals,
    )


class _Application(FastAPI):
    """`with_keys`: requests need one."""

    def __init__(self, *, with_keys: bool) -> None:
        super().__init__(title="epd-serve", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
        self._with_keys = with_keys

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        openapi.complete(document, BODIES, with_keys=self._with_keys)
        return document
