"""The outermost layer of the application: what holds for every request, whatever it asks for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.http.errors import error_response, is_anthropic
from router.http.refusals import Refusals
from router.problems import Problem

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Edge:
    """Gives every request an id: `request.state.request_id`, and X-Request-Id in the answer. It is the client's own if
    that is a plain word.

    HEAD is answered wherever GET is, without the body, which the HTTP server leaves out. A slash at the end of a path
    means nothing: to redirect would lose the bodies of clients that do not follow, and the scheme behind proxies.

    Args:
        app: what is inside.
        max_header_bytes: of a request; the HTTP server looks at it only while a head is incomplete.
        leaving: whether this router takes nothing new. Its answers then end their connections: what a client tries
            again on a connection that it has kept would come back to this router instead of another one.
        refusals: of requests that do not get inside.
    """

    def __init__(self, app: ASGIApp, *, max_header_bytes: int, leaving: Callable[[], bool], refusals: Refusals) -> None:
        self._app = app
        self._max_header_bytes = max_header_bytes
        self._leaving = leaving
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        seen = {
            **scope,
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
            "path": scope["path"].rstrip("/") or "/",
            "state": {**scope.get("state", {}), "request_id": request_id},
        }

        # Anthropic's clients know it by another name.
        names = (b"x-request-id", b"request-id") if is_anthropic(seen["path"]) else (b"x-request-id",)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name, request_id.encode()) for name in names)]
                if self._leaving():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        if _head_bytes(scope) > self._max_header_bytes:
            problem = Problem(431, "the header of the request is too large", code="header_too_large")
            self._refusals.note(problem, seen)
            response = error_response(problem, seen["path"], request_id)
            response.headers["connection"] = "close"
            await response(seen, receive, send_with_id)
            return
        await self._app(seen, receive, send_with_id)


def _head_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return fields + len(scope["path"]) + len(scope["query_string"])
