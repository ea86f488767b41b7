"""What an `Encode` stream leaves behind: counters, and one line at debug."""

from __future__ import annotations

import asyncio
import logging

import pytest

from common.errors import BadMediaError, InternalError
from common.logs import RateLimitedLog
from common.pb import common_pb2, encode_pb2
from common.stages import TimedStage
from common.tracing import NO_SPAN
from encode_server.account import StreamAccount
from encode_server.metrics import EncodeMetrics


@pytest.fixture
def metrics() -> EncodeMetrics:
    return EncodeMetrics()


def account(metrics: EncodeMetrics, faults: RateLimitedLog | None = None) -> StreamAccount:
    made = StreamAccount(metrics, NO_SPAN, faults or RateLimitedLog(logging.getLogger("faults")))
    made.open(encode_pb2.OpenEncode(request_id="r1", kind=common_pb2.IMAGE, sizes=[3, 4]))
    return made


def value(metrics: EncodeMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_good_stream(metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stream = account(metrics)
    stream.accept()
    with stream.stage("receive"):
        pass
    with pytest.raises(BadMediaError), stream.stage("header"):
        raise BadMediaError("no header")
    stream.add(TimedStage(name="vision", start=1.0, end=3.0, worked=0.5))
    stream.finish()
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("DEBUG", "encode")
    assert (line.request_id, line.outcome, line.kind, line.media_bytes) == ("r1", "finished", "image", 7)  # type: ignore[attr-defined]
    assert line.stages_ms.keys() == {"receive", "vision"}  # type: ignore[attr-defined]
    assert line.stages_ms["vision"] == 500  # type: ignore[attr-defined]
    assert value(metrics, "epd_requests_accepted_total") == value(metrics, "epd_requests_finished_total") == 1
    assert value(metrics, "epd_stage_seconds_count", stage="receive") == 1
    assert value(metrics, "epd_stage_seconds_count", stage="header") == 0, "it failed"
    assert value(metrics, "epd_stage_seconds_count", stage="vision") == 0, "it was counted where it was measured"


def test_a_busy_server_logs_nothing_about_streams_at_info(
    metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account(metrics).finish()
    account(metrics).abort()
    error = account(metrics).fail(ExceptionGroup("streams", [BadMediaError("not an image")]))
    assert (type(error), error.message) == (BadMediaError, "not an image")
    assert caplog.records == []
    assert value(metrics, "epd_requests_aborted_total") == 1
    assert value(metrics, "epd_requests_failed_total", code="bad_media") == 1


async def test_mistakes_of_ours_are_told_without_what_they_quote_and_not_all_of_them(
    metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> None:
        raise ValueError("not a number: <bytes of an image>")

    faults = RateLimitedLog(logging.getLogger("faults"))
    for _ in range(3):
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
        error = account(metrics, faults).fail(caught.value)
        assert isinstance(error, InternalError)
        assert "bytes" not in error.message
    (line,) = caplog.records
    assert "ValueError at encode_server/test_account.py:" in line.getMessage()
    assert "bytes of an image" not in line.getMessage()
    assert (line.request_id, line.exc_info) == ("r1", None)  # type: ignore[attr-defined]
