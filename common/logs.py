"""Logging of every service: one line a record, as text for eyes or as JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# What a LogRecord always has; everything else came in by `extra=` and is a field of the line. `color_message` is
# uvicorn's: the message once more, for terminals.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Formatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {name: value for name, value in vars(record).items() if name not in _STANDARD}

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class TextFormatter(_Formatter):
    """`12:34:56.789 INFO  router  message  request_id=abc`"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        # One line a record: what a request carries can't forge a second one.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        fields = "".join(f"  {name}={value!r}" for name, value in self._fields(record).items())
        trace = self._trace(record)
        return f"{at} {record.levelname:<7} {self._role}  {message}{fields}" + (f"\n{trace}" if trace else "")


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, role, logger, message, the record's own fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields(record),
        }
        trace = self._trace(record)
        return json.dumps(line | ({"exception": trace} if trace else {}), default=str, ensure_ascii=False)


def setup_logging(role: str, level: LogLevel = "info", log_format: LogFormat = "text") -> None:
    """Sends the process's log to stderr; called once, by its main function."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if log_format == "json" else TextFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncio", "PIL", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class RequestLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the request's id: `RequestLog(log, request_id).info("aborted")`."""

    def __init__(self, logger: logging.Logger, request_id: str) -> None:
        super().__init__(logger, {"request_id": request_id})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class RateLimitedLog:
    """Warnings that a stranger or a broken peer can cause at will: one a kind and interval; it says how many it is for.

    `kind` is one of a few fixed words (it is remembered); what varies belongs in the arguments.
    """

    def __init__(
        self, logger: logging.Logger, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval = interval  # seconds
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def warning(self, kind: str, message: str, *args: object) -> None:
        now = self._clock()
        if now < self._silent_until.get(kind, 0.0):
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        self._silent_until[kind] = now + self._interval
        suppressed = self._suppressed.pop(kind, 0)
        note = f" (and {suppressed} more like it)" if suppressed else ""
        self._logger.warning(message + note, *args)
