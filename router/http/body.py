"""Reading a request's body: bounded, counted, and JSON or a clear error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from common.errors import CancelledError
from router import strict_json
from router.media.budget import Hold
from router.problems import Problem

# Text and base64 are cheap to parse, structure is not: an empty list, two bytes, becomes an object of 56.
_MAX_STRUCTURE = 200_000
_LOOK_BYTES = 1 << 20  # between two looks at the count
_MAX_DEPTH = 128  # of lists and objects in each other
_DISCARD_S = 2.0
# What looks like half of a surrogate pair: "\ud83d" with no "\udc00" to "\udfff" behind it, or one of these alone.
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)


class Body:
    """The body of one request, on its way in.

    Args:
        receive: of ASGI.
        headers: of the request.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str]) -> None:
        self._receive = receive
        self._headers = headers
        self._begun = False
        self._complete = False

    async def read(self, *, limit: int, hold: Hold, timeout: float) -> bytearray:
        """All of it, of at most `limit` bytes, which are added to `hold`, and within `timeout` seconds.

        Raises:
            Problem: 408, 413 or 415, by what is wrong.
            OverloadedError: from `hold`.
            CancelledError: the client left before the end.
        """
        content_type = self._headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            message = f"the content type has to be application/json, not {content_type!r}"
            raise Problem(415, message, code="invalid_content_type")
        if (encoding := self._headers.get("content-encoding", "identity").strip().lower()) != "identity":
            message = f"a body can't be compressed or encoded: {encoding!r}"
            raise Problem(415, message, code="invalid_content_encoding")
        if (length := self._headers.get("content-length", "")).isdecimal():
            _check_size(int(length), limit)
        body = bytearray()
        try:
            async with asyncio.timeout(timeout):
                while not self._complete:
                    chunk = await self._next()
                    _check_size(len(body) + len(chunk), limit)
                    hold.add(len(chunk))
                    body += chunk
        except TimeoutError:
            raise Problem(408, f"the request body took longer than {timeout:g} s", code="body_too_slow") from None
        return body

    async def discard(self) -> bool:
        """Reads the rest of a body that was refused, for a moment; whether nothing of it is left.

        Most clients look for an answer only after they have sent everything, and lose it if the connection is closed
        before. Those that expect "100 Continue" have sent nothing, and look for an answer first.
        """
        if self._headers.get("expect", "").lower() == "100-continue" and not self._begun:
            return False
        with contextlib.suppress(TimeoutError, CancelledError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._complete:
                    await self._next()
        return self._complete

    async def _next(self) -> bytes:
        self._begun = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the client left")
        self._complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


def parse_json(body: bytes | bytearray) -> Any:
    """Strict JSON (RFC 8259) of bounded structure. Raises Problem (400)."""
    brackets = _check_structure(body)
    try:
        parsed = strict_json.loads(body.decode())
    except UnicodeDecodeError:
        raise Problem(400, "the request body is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Problem(400, f"the request body is not valid JSON: {error}", code="invalid_json") from None
    if brackets > _MAX_DEPTH:
        _check_depth(parsed)  # which is a list or an object
    if _HALF_PAIR.search(body):
        _check_unicode(parsed)
    return parsed


def _check_unicode(parsed: Any) -> None:
    """Half of a surrogate pair is no character: there is no UTF-8 for it, in a prompt, a grammar or an answer."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "the request body has half of a surrogate pair, which is not Unicode"
        raise Problem(400, message, code="invalid_json") from None


def _check_structure(body: bytes | bytearray) -> int:
    """How many brackets there are."""
    commas = brackets = 0
    for start in range(0, len(body), _LOOK_BYTES):
        end = start + _LOOK_BYTES
        commas += body.count(b",", start, end)
        brackets += body.count(b"[", start, end) + body.count(b"{", start, end)
        if commas + brackets > _MAX_STRUCTURE:
            message = f"the request body has more than the {_MAX_STRUCTURE} commas and brackets that are allowed"
            raise Problem(400, message, code="body_too_complex")
    return brackets


def _check_depth(parsed: Any) -> None:
    """What goes through a body afterwards does so by recursion: how deep that may go is not for a stranger to say."""
    level = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> Problem:
    return Problem(400, f"the request body is nested more than {_MAX_DEPTH} levels deep", code="body_too_complex")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Problem(413, f"the request body has more than the {limit} bytes that are allowed", code="body_too_large")
