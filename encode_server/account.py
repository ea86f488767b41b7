"""What one `Encode` stream did and how it ended, told once to whoever keeps account of it; for real servers and fakes.

One line a stream goes to the log. At info it is there if the stream failed, else at debug: a busy server has hundreds
of them a second, and the router's line of the request names all of its stages.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping

from common.errors import EPDError, InternalError
from common.logs import RateLimitedLog, whereabouts
from common.pb import common_pb2, encode_pb2
from common.stages import TimedStage
from common.tracing import Span
from encode_server.metrics import EncodeMetrics

log = logging.getLogger(__name__)

_NO_FAILURE: Mapping[str, str] = {}
_KINDS = {kind: name.lower() for name, kind in common_pb2.MediaKind.items()}


class StreamAccount:
    """Of one stream. Exactly one of `finish`, `abort` and `fail` ends it.

    Args:
        metrics: of the server.
        span: of the stream, which ends with it.
        faults: takes the warnings about what no client did wrong; of the server, because streams with the same trouble
            are many.
    """

    def __init__(self, metrics: EncodeMetrics, span: Span, faults: RateLimitedLog) -> None:
        self._metrics = metrics
        self._span = span
        self._faults = faults
        self._began = time.monotonic()
        self._opening = encode_pb2.OpenEncode()
        self._stages: list[TimedStage] = []

    def open(self, opening: encode_pb2.OpenEncode) -> None:
        """What the stream is about."""
        self._opening = opening

    def accept(self) -> None:
        """The stream has a share in an item."""
        self._metrics.requests_accepted.inc()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is inside is a stage of this stream. One that fails is in the trace only."""
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._span.stage(name, start, time.monotonic(), error)
            raise
        stage = TimedStage(name=name, start=start, end=time.monotonic())
        self._metrics.observe(stage)
        self.add(stage)

    def add(self, *stages: TimedStage) -> None:
        """Stages that the stream had to do with, and that are counted already."""
        self._stages += stages
        for stage in stages:
            self._span.stage(stage.name, stage.start, stage.end)

    def finish(self) -> None:
        """Everything that the router wanted was done."""
        self._metrics.requests_finished.inc()
        self._end("finished")

    def abort(self) -> None:
        """The router left."""
        self._metrics.requests_aborted.inc()
        self._end("aborted")

    def fail(self, error: BaseException) -> EPDError:
        """The error that the router is told."""
        first, extra = _first(error), {"request_id": self._opening.request_id}
        why = None  # what is below 429 may quote the client
        if not isinstance(first, EPDError):
            why = whereabouts(first)
            self._faults.error("stream", "an encode stream failed: %s", why, extra=extra)
            first = InternalError("the encode server failed on this item")
        elif first.http_status >= 429:
            why = first.message
            self._faults.warning(type(first).__name__, "an encode stream failed: %s", why, extra=extra)
        code = common_pb2.Error.Code.Name(first.code).lower()
        self._metrics.requests_failed.labels(code).inc()
        self._end("failed", {"code": code, **({"error": why} if why is not None else {})})
        return first

    def _end(self, outcome: str, failure: Mapping[str, str] = _NO_FAILURE) -> None:
        opening, span = self._opening, self._span
        kind, media_bytes = _KINDS.get(opening.kind, "unknown"), sum(opening.sizes)
        if span.is_recorded:
            span.set({"epd.request_id": opening.request_id, "epd.outcome": outcome})
            span.set({"epd.media.kind": kind, "epd.media.bytes": media_bytes})
            if failure:
                span.fail(failure["code"])
            span.end()
        level = logging.INFO if failure else logging.DEBUG
        if log.isEnabledFor(level):
            fields = {
                "request_id": opening.request_id,
                "outcome": outcome,
                **failure,
                "kind": kind,
                "media_bytes": media_bytes,
                "seconds": round(time.monotonic() - self._began, 3),
                "stages_ms": {stage.name: round(1000 * stage.seconds, 1) for stage in self._stages},
                **({"trace_id": span.trace_id} if span.trace_id else {}),
            }
            log.log(level, "encode", extra=fields)


def _first(error: BaseException) -> BaseException:
    """What a (nested) group of exceptions began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
