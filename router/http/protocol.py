"""HTTP/1.1 on a connection: uvicorn's, with bounds on heads, and answers of ours to what is no request."""

from __future__ import annotations

import asyncio

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from router.problems import Problem

_TOO_LARGE = Problem(431, "the header of the request is too large", code="header_too_large")
_FRAMING = (b"content-length", b"transfer-encoding")
_INVALID = Problem(400, "this is not a valid HTTP request", code="invalid_http")


class Protocol(HttpToolsProtocol):
    """One connection.

    What the parser keeps for itself (a head, a trailer, the size of a chunk that does not end) is at most as large as a
    head may be, and 256 KiB, as much as comes at a time.
    """

    head_timeout = 20.0  # seconds for a request's line and header; whoever is slower is cut off

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, object], **options: object):
        super().__init__(config, server_state, app_state, **options)  # type: ignore[arg-type]
        # uvicorn passes the limit on only to its other implementation, whose name it has
        self._max_head_bytes = config.h11_max_incomplete_event_size or 0
        self._undigested = 0  # bytes that came since the parser last had something whole, or a piece of a body
        self._in_head = False
        self._head_is_known = False  # the parser repeats one
        self._refused = False  # nothing that still comes is looked at
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._undigested += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(_INVALID)
        if self._undigested > self._max_head_bytes and not self._refused:
            self._refuse(_TOO_LARGE)
        self._watch_head()

    def _feed(self, data: bytes) -> None:
        """To the parser, which believes that after a head with an offer to speak another protocol that one begins.

        Some clients make the offer with every request (Java's own does, of HTTP/2). Not to take it up is an answer:
        another parser goes on behind the head.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                (behind_head,) = upgrade.args
                data = data[behind_head:]
            framing = [b"%b: %b\r\n" % field for field in self.headers if field[0] in _FRAMING]
            self.parser = httptools.HttpRequestParser(self)
            self._head_is_known = True
            self.parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))

    # -- what the parser finds ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._head_is_known:
            self._in_head = True
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._head_is_known:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is known, or a trailer's, which nobody wants
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_is_known:
            self._head_is_known = False
            return
        self._in_head = False
        self._undigested = 0
        if self.parser.get_http_version() == "1.1" and all(name != b"host" for name, _ in self.headers):
            raise httptools.HttpParserError("there is no Host")  # RFC 9112, 3.2
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._undigested = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # only the head is
        self._undigested = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()  # of a request that came while another was answered

    # -- who is too slow, too large or makes no sense ----------------------------------------------------------------

    def _refuse(self, problem: Problem) -> None:
        """The last answer on this connection, unless one is under way."""
        self._refused = True
        self._stop_watching()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body and not self.pipeline:  # it was all right: it is answered, what follows is not
                cycle.keep_alive = False
                return
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        body = problem.body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()

    def _watch_head(self) -> None:
        """Whether a request's head is waited for may have changed.

        Not between two requests: a connection that is not used may stay open for as long as uvicorn lets it.
        """
        is_idle = self.cycle is None or (self.cycle.response_complete and self._in_head)
        if self._refused or not is_idle:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout, self.transport.close)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
