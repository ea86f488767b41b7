"""What an `Encode` stream leaves behind: counters, and one line, at info if it failed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from common.errors import BadMediaError, InternalError, OverloadedError
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


def test_a_busy_server_logs_nothing_at_info_about_streams_that_did_not_fail(
    metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account(metrics).finish()
    account(metrics).abort()
    assert caplog.records == []
    assert value(metrics, "epd_requests_aborted_total") == 1


def test_a_stream_that_failed_has_its_line_at_info_without_what_it_may_quote(
    metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = account(metrics)
    with stream.stage("receive"):
        pass
    error = stream.fail(ExceptionGroup("streams", [BadMediaError("not an image: <bytes>")]))
    assert (type(error), error.message) == (BadMediaError, "not an image: <bytes>")
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("INFO", "encode")
    assert (line.request_id, line.outcome, line.code) == ("r1", "failed", "bad_media")  # type: ignore[attr-defined]
    assert line.stages_ms.keys() == {"receive"}  # type: ignore[attr-defined]
    assert not any("<bytes>" in str(value) for value in vars(line).values())
    assert value(metrics, "epd_requests_failed_total", code="bad_media") == 1


def test_trouble_that_no_client_made_is_a_warning_too_but_not_each_time(
    metrics: EncodeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    faults = RateLimitedLog(logging.getLogger("faults"))
    for _ in range(3):
        account(metrics, faults).fail(OverloadedError("too much waits"))
    assert [line.levelname for line in caplog.records] == ["WARNING", "INFO", "INFO", "INFO"]
    assert caplog.records[0].getMessage() == "an encode stream failed: too much waits"
    assert [line.error for line in caplog.records[1:]] == ["too much waits"] * 3  # type: ignore[attr-defined]


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
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "ValueError at encode_server/test_account.py:" in line.getMessage()
    assert "bytes of an image" not in line.getMessage()
    assert (line.request_id, line.exc_info) == ("r1", None)  # type: ignore[attr-defined]
