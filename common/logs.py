"""Logging of every service: one line a record, as text for eyes or as JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_INTERVAL_S = 10.0  # between two lines of a kind that is limited
_MOST_KINDS = 1000  # that are remembered; libraries also put what varies into their messages
_FRAMES = 6  # of a stack
_OURS = frozenset({"__main__", "common", "deploy", "encode_server", "language_server", "router"})

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
    handler.addFilter(LibraryLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncio", "grpc", "PIL", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class RequestLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the request's id: `RequestLog(log, request_id).info("aborted")`."""

    def __init__(self, logger: logging.Logger, request_id: str) -> None:
        super().__init__(logger, {"request_id": request_id})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class _Limiter:
    """One a kind and interval."""

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval  # seconds
        self._clock = clock
        self._silent_until: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def note(self, kind: Hashable) -> str | None:
        """What is to be said of those that were suppressed since the last one, if anything; None: suppress it."""
        now = self._clock()
        if now < self._silent_until.get(kind, 0.0):
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        if len(self._silent_until) >= _MOST_KINDS:
            self._silent_until.clear()
            self._suppressed.clear()
        self._silent_until[kind] = now + self._interval
        suppressed = self._suppressed.pop(kind, 0)
        return f" (and {suppressed} more like it)" if suppressed else ""


class RateLimitedLog:
    """What a stranger or a broken peer can cause at will: one line a kind and interval, which says how many it is for.

    `kind` is one of a few fixed words (it is remembered); what varies belongs in the arguments.
    """

    def __init__(
        self, logger: logging.Logger, interval: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._limiter = _Limiter(interval, clock)

    def warning(self, kind: str, message: str, *args: object, extra: Mapping[str, object] | None = None) -> bool:
        """Whether there is a line. `extra`: its fields."""
        if (note := self._limiter.note(kind)) is None:
            return False
        self._logger.warning(message + note, *args, extra=extra)
        return True

    def error(
        self,
        kind: str,
        message: str,
        *args: object,
        trace: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """`trace`: whose stack is shown, with its message: for errors that can't quote what a client sent."""
        if (note := self._limiter.note(kind)) is not None:
            self._logger.error(message + note, *args, extra=extra, exc_info=trace)


class LibraryLimit(logging.Filter):
    """Libraries, too, warn of what strangers and peers do: HTTP upgrades, connections that break, a collector that is
    away. Of theirs one warning a kind and interval is let through."""

    def __init__(self, interval: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limiter = _Limiter(interval, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.name.partition(".")[0] in _OURS:
            return True
        note = self._limiter.note((record.name, record.msg))
        if note:
            record.msg = f"{record.msg}{note}"
        return note is not None


def whereabouts(error: BaseException) -> str:
    """What kind of error it is and where it comes from, without its message: that may quote what a client sent."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    places = (f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {' < '.join(places)}"
