"""Errors as OpenAI's API spells them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json

from common.errors import ContextLengthError, EPDError, InternalError, InvalidRequestError

_TYPES = {
    429: "rate_limit_error",
    499: "request_cancelled",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
_CODES = {
    401: "invalid_api_key",
    429: "overloaded",
    499: "client_closed_request",
    500: "internal_error",
    503: "unavailable",
    504: "deadline_exceeded",
}
_HEADERS = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}, 503: {"retry-after": "2"}}
# A message may quote what the client sent, which may be long.
_SHOWN_CHARACTERS = 2000


class MediaUnknownError(InvalidRequestError):
    """An item without content, and no item is known by its uuid."""


class MediaExpiredError(InvalidRequestError):
    """An item without content is known, but no server holds its embedding any more."""


class ItemError(Exception):
    """`error` concerns the media item at `param` of the request."""

    def __init__(self, error: EPDError, param: str) -> None:
        super().__init__(f"{param}: {error.message}")
        self.error = error
        self.param = param


class Problem(Exception):
    """An HTTP answer that is an error.

    Args:
        status: of HTTP.
        message: for the client's eyes.
        param: the request's field that it is about.
        code: for programs; the status has one of its own.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = _presentable(message)
        self.param = _presentable(param) if param is not None else None
        self.code = code or _CODES.get(status)

    @property
    def headers(self) -> dict[str, str]:
        return _HEADERS.get(self.status, {})

    def body(self) -> bytes:
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode()


def problem_of(error: EPDError | ItemError) -> Problem:
    """How a failed request is answered."""
    if isinstance(error, ItemError):
        return Problem(error.error.http_status, str(error), param=error.param, code=_code(error.error))
    if isinstance(error, ContextLengthError):
        return Problem(400, error.message, param="messages", code="context_length_exceeded")
    if isinstance(error, InternalError):
        return Problem(500, "the model server failed to answer this request")
    return Problem(error.http_status, error.message)


def _code(error: EPDError) -> str | None:
    match error:
        case MediaUnknownError():
            return "media_unknown"
        case MediaExpiredError():
            return "media_expired"
        case _:
            return "invalid_media" if error.http_status == 400 else None


def _presentable(text: str) -> str:
    """Half a surrogate pair, which JSON may hold, has no UTF-8."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ..."
    return shown.encode(errors="replace").decode()
