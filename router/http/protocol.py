"""HTTP/1.1 on a connection: uvicorn's, with answers of ours to what is no request."""

from __future__ import annotations

import asyncio
import http
import sys
from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from router.problems import Problem

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

_PROBLEMS = {
    431: ("the header of the request is too large", "header_too_large"),
    501: ("this transfer encoding is not known here", "invalid_http"),
}
_INVALID = ("this is not a valid HTTP request", "invalid_http")


class Protocol(H11Protocol):
    """One connection."""

    head_timeout = 20.0  # seconds for a request's line and header; whoever is slower is cut off
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _Cycle  # uvicorn has no place to name another; its task has not begun yet
        self._watch_head()

    def send_400_response(self, msg: str) -> None:
        """In the shape of all other errors, and with the status that h11 gives what it met."""
        self._stop_watching()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.close()
            return
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        message, code = _PROBLEMS.get(status, _INVALID)
        body = Problem(status, message, code=code).body()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        reason = http.HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_head(self) -> None:
        """Whether a request's head is waited for may have changed.

        Not between two requests: a connection that is not used may stay open for as long as uvicorn lets it.
        """
        is_due = self.cycle is None or bool(self.conn.trailing_data[0])
        if self.conn.their_state is not h11.IDLE or not is_due:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout, self.transport.close)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Cycle(RequestResponseCycle):
    """A request and its answer. A streamed token costs the router about a fifth less CPU
    time so (tests/bench/router_cost.py).

    h11 looks at every piece of a body and changes no state over it until the last one. So in a chunked answer only that
    one, and whatever is out of the ordinary, goes through h11.
    """

    _is_chunked = False

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            sizes = {b"content-length", b"transfer-encoding"}
            self._is_chunked = (
                self.scope["http_version"] == "1.1"
                and self.scope["method"] != "HEAD"
                and message["status"] not in (204, 304)
                and not any(name.lower() in sizes for name, _ in message.get("headers", []))
            )
        elif (
            self._is_chunked
            and message["type"] == "http.response.body"
            and message.get("more_body")
            and not (self.response_complete or self.disconnected or self.flow.write_paused)
        ):
            if body := message.get("body"):
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            return
        await super().send(message)
