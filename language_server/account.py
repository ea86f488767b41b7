"""What became of one request at a language server, told once to whoever keeps account of it: a line of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from common.errors import EPDError
from common.pb import common_pb2
from common.pb import language_pb2 as pb

log = logging.getLogger(__name__)

_REASONS = {value: name.lower() for name, value in pb.Finished.Reason.items()}


class RequestAccount:
    """Of one request, from its arrival at the server. Exactly one of `finish`, `abort` and `fail` ends it."""

    def __init__(self, generate: pb.Generate) -> None:
        self._began = time.monotonic()
        self._request_id = generate.request_id
        self._choice = generate.sampling.choice

    def finish(self, finished: pb.Finished) -> None:
        """The engine's last word."""
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
        seconds = round(time.monotonic() - self._began, 3)
        choice = {"choice": self._choice} if self._choice else {}
        log.info("generate", extra={"request_id": self._request_id, **choice, "seconds": seconds, **fields})


def _code(error: common_pb2.Error) -> str:
    return common_pb2.Error.Code.Name(error.code).lower()
