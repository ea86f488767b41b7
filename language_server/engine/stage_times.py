"""The stages of a request as the engine sees them.

arrived ──queue──► first computation ──prefill──► first token ──decode──► end
        ──inbox──► all rows are there    (only if some were missing; at the latest with the first token)
        ──grammar──► it is compiled      (only if there is one)
"""

from __future__ import annotations

import time

from common.stages import TimedStage
from language_server.engine.request import Request


def stage_times(request: Request) -> list[TimedStage]:
    """Of a request that ends now; a stage that it did not reach is left out, the one that it is in ends with it."""
    now, arrived = time.monotonic(), request.arrived_at
    started, first = request.started_at, request.first_token_at
    stages = [TimedStage(name="queue", start=arrived, end=started or now)]
    if request.compiling is not None or request.compiled_at is not None:
        stages.append(TimedStage(name="grammar", start=arrived, end=request.compiled_at or now))
    if request.lacked_media:
        stages.append(TimedStage(name="inbox", start=arrived, end=request.media_at or first or now))
    if started is not None:
        stages.append(TimedStage(name="prefill", start=started, end=first or now))
    if first is not None:
        stages.append(TimedStage(name="decode", start=first, end=now))
    return stages
