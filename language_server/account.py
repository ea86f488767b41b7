"""What became of one request at a language server, told once to whoever keeps account of it: log and trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from common.errors import EPDError
from common.pb import common_pb2, engine_pb2
from common.pb import language_pb2 as pb
from common.tracing import Tracing

log = logging.getLogger(__name__)

# Fields of the log's line, as attributes of the span.
_ATTRIBUTES = {
    "outcome": "epd.outcome",
    "reason": "epd.finish_reason",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "epd.cached_tokens",
}
_REASONS = {value: name.lower() for name, value in pb.Finished.Reason.items()}


class RequestAccount:
    """Of one request, from its arrival at the server. Exactly one of `finish`, `abort` and `fail` ends it."""

    def __init__(self, generate: pb.Generate, tracing: Tracing) -> None:
        context = (("traceparent", generate.traceparent), ("tracestate", generate.tracestate))
        self._span = tracing.serve("generate", [(name, value) for name, value in context if value])
        self._began = time.monotonic()
        self._request_id = generate.request_id
        self._choice = generate.sampling.choice

    def finish(self, finished: pb.Finished, stages: Iterable[engine_pb2.TimedStage] = ()) -> None:
        """The engine's last word, and when the request was in which stage."""
        for stage in stages:
            self._span.stage(stage.name, stage.start, stage.end)
        match finished.reason:
            case pb.Finished.ERROR:
                fields: dict[str, object] = {"outcome": "failed", "code": _code(finished.error)}
            case pb.Finished.ABORTED:
                fields = {"outcome": "aborted"}
            case _:
                fields = {"outcome": "finished", "reason": _REASONS.get(finished.reason)}
        self._end(
            {
                **fields,
                "prompt_tokens": finished.prompt_tokens,
                "cached_tokens": finished.cached_tokens,
                "output_tokens": finished.output_tokens,
                "stages_ms": {stage.stage: round(stage.milliseconds, 1) for stage in finished.times},
            }
        )

    def abort(self) -> None:
        """The router is gone."""
        self._end({"outcome": "aborted"})

    def fail(self, error: EPDError) -> None:
        """The front ends it, not the engine."""
        self._end({"outcome": "failed", "code": _code(error.to_wire())})

    def _end(self, fields: Mapping[str, object]) -> None:
        span = self._span
        if span.is_recorded:
            named = {_ATTRIBUTES[name]: value for name, value in fields.items() if name in _ATTRIBUTES}
            span.set({name: value for name, value in named.items() if isinstance(value, str | int)})
            span.set({"epd.request_id": self._request_id, "epd.choice": self._choice})
            if isinstance(code := fields.get("code"), str):
                span.fail(code)
            span.end()
            fields = {**fields, "trace_id": span.trace_id}
        seconds = round(time.monotonic() - self._began, 3)
        choice = {"choice": self._choice} if self._choice else {}
        log.info("generate", extra={"request_id": self._request_id, **choice, "seconds": seconds, **fields})


def _code(error: common_pb2.Error) -> str:
    return common_pb2.Error.Code.Name(error.code).lower()
