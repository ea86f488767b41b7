"""The stages of a request that has ended, as the engine tells its front."""

from __future__ import annotations

from collections.abc import Iterable

from common.pb import engine_pb2
from common.stages import TimedStage


def timeline(handle: int, stages: Iterable[TimedStage]) -> engine_pb2.Timeline:
    told = (engine_pb2.TimedStage(name=stage.name, start=stage.start, end=stage.end) for stage in stages)
    return engine_pb2.Timeline(handle=handle, stages=told)
