"""Reading a request's body: bounded, counted, and JSON or a clear error."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.types import Receive

from common.errors import CancelledError
from router.media.budget import Hold
from router.problems import Problem

# Text and base64 are cheap to parse, structure is not: an empty list, two bytes, becomes an object of 56.
_STRUCTURE = (b",", b"[", b"{")
_MAX_STRUCTURE = 200_000
_LOOK_BYTES = 1 << 20  # between two looks at the count
_DISCARD_S = 2.0


class Body:
    """The body of one request, on its way in.

    Args:
        receive: of ASGI.
        headers: of the request.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str]) -> None:
        self._receive = receive
        self._headers = headers
        self._complete = False

    async def read(self, *, limit: int, hold: Hold, timeout: float) -> bytearray:
        """All of it, of at most `limit` bytes, which are added to `hold`, and within `timeout` seconds.

        Raises:
            Problem: 400, 408 or 413, by what is wrong.
            OverloadedError: from `hold`.
            CancelledError: the client left before the end.
        """
        content_type = self._headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            message = f"the content type has to be application/json, not {content_type!r}"
            raise Problem(400, message, code="invalid_content_type")
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

    async def discard(self) -> None:
        """Reads the rest of a body that was refused, for a moment.

        Most clients look for an answer only after they have sent everything, and lose it if the connection is closed
        before.
        """
        with contextlib.suppress(TimeoutError, CancelledError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._complete:
                    await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the client left")
        self._complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


def parse_json(body: bytes | bytearray) -> Any:
    """Strict JSON (RFC 8259) of bounded structure. Raises Problem (400)."""
    _check_structure(body)
    try:
        return json.loads(body.decode(), parse_constant=_refuse)
    except UnicodeDecodeError:
        raise Problem(400, "the request body is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise Problem(400, "the request body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise Problem(400, f"the request body is not valid JSON: {error}", code="invalid_json") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _check_structure(body: bytes | bytearray) -> None:
    count = 0
    for start in range(0, len(body), _LOOK_BYTES):
        count += sum(body.count(mark, start, start + _LOOK_BYTES) for mark in _STRUCTURE)
        if count > _MAX_STRUCTURE:
            message = f"the request body has more than the {_MAX_STRUCTURE} commas and brackets that are allowed"
            raise Problem(400, message, code="body_too_complex")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Problem(413, f"the request body has more than the {limit} bytes that are allowed", code="body_too_large")
