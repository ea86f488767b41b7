from __future__ import annotations

import pytest

from common.pb import common_pb2, engine_pb2
from common.pb import language_pb2 as pb
from language_server.metrics import LanguageMetrics


def value(metrics: LanguageMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_each_step_and_each_end_is_counted_once() -> None:
    metrics = LanguageMetrics()
    times = [common_pb2.StageTime(stage="inbox", milliseconds=250.0)]
    finished = pb.Finished(handle=1, times=times)
    metrics.update(engine_pb2.EngineEvents(step=engine_pb2.Step(tokens=40, seconds=0.5)))
    metrics.update(engine_pb2.EngineEvents(events=pb.SessionEvent(finished=[finished])))  # nothing was computed
    assert value(metrics, "epd_step_tokens_sum") == 40
    assert value(metrics, "epd_step_tokens_count") == value(metrics, "epd_step_seconds_count") == 1
    assert value(metrics, "epd_stage_seconds_sum", stage="inbox") == 0.25
    assert value(metrics, "epd_stage_seconds_count", stage="queue") == 0


def test_the_prefix_cache_is_shown_in_bytes() -> None:
    metrics = LanguageMetrics()
    stats = engine_pb2.EngineStats(values={"kv_block_bytes": 100.0, "prefix_entries": 3.0, "kv_blocks": 8.0})
    metrics.update(engine_pb2.EngineEvents(stats=stats))
    assert value(metrics, "epd_cache_bytes", cache="prefix") == 300
    assert value(metrics, "epd_cache_capacity_bytes", cache="prefix") == 800
    assert value(metrics, "epd_cache_entries", cache="prefix") == 3


def test_a_stage_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        LanguageMetrics().observe([common_pb2.StageTime(stage="coffee", milliseconds=1.0)])
