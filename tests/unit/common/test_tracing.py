"""Spans and their context, from the environment's variables to what a collector receives."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import common.tracing
from common.config import ConfigError
from common.errors import BadMediaError
from common.tracing import NO_SPAN, OFF, Tracing, tracing_from_environment
from tests.otlp_collector import Collected, Collector, collecting

ROOT = Path(__file__).parents[3]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's variables but a test's own."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds until spans are exported
        yield collector


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Tracing]:
    made = tracing_from_environment("epd-test")
    yield made
    made.close()


class TestOff:
    def test_without_an_endpoint_nothing_is_made(self) -> None:
        assert tracing_from_environment("epd-test") is OFF
        span = OFF.serve("anything", [SAMPLED])
        assert span is span.child("stage") is NO_SPAN
        assert (span.is_recorded, span.trace_id, dict(span.headers)) == (False, "", {})
        with span.child("stage") as inner:
            inner.stage("vision", 1.0, 2.0)
            inner.set({"a": 1})
            inner.event("now")

    def test_nothing_is_imported(self) -> None:
        """Also by whoever uses it, but FastAPI, which imports the API for itself."""
        program = (
            "import sys, common.tracing, encode_server.fake, language_server.engine_process, language_server.fake;"
            "assert common.tracing.tracing_from_environment('x') is common.tracing.OFF;"
            "assert not [name for name in sys.modules if name.startswith('opentelemetry')];"
            "import router.app; assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]"
        )
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
    )
    def test_it_can_be_switched_off(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert tracing_from_environment("epd-test") is OFF

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("OTEL_TRACES_EXPORTER", "console", "'console'"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf is possible"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "user:secret@localhost:4318",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not",
            ),
        ],
    )
    def test_what_can_not_be_had_is_an_error(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=told) as caught:
            tracing_from_environment("epd-test")
        assert "secret" not in str(caught.value)

    def test_a_missing_extra_is_an_error_that_names_it(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
        with pytest.raises(ConfigError, match=r"pip install 'epd-serve\[tracing\]'"):
            tracing_from_environment("epd-test")


class TestOn:
    def test_parents_and_children(self, collector: Collector, tracing: Tracing) -> None:
        state = ("TraceState", b"vendor=value")
        span = tracing.serve("POST /v1", [(b"accept", b"*/*"), SAMPLED, state])
        assert (span.is_recorded, span.trace_id) == (True, TRACE)
        with span.child("encode", {"server.address": "host:1"}, calls=True) as call:
            context = dict(call.headers)
        theirs = tracing.serve("encode", context.items())
        theirs.end()
        span.event("first token")
        span.set({"http.response.status_code": 200})
        span.end()
        span.end()
        span.set({"late": 1})
        encode, server, root = collector_order(collector, 3)
        assert {one.trace_id for one in collector.spans} == {TRACE}
        assert (root.parent, encode.parent, server.parent) == (PARENT, root.span_id, encode.span_id)
        assert (root.kind, encode.kind, server.kind) == ("server", "client", "server")
        assert (root.state, context["tracestate"]) == ("vendor=value", "vendor=value")
        assert root.attributes == {"http.response.status_code": 200}
        assert root.events == ("first token",)
        assert encode.attributes == {"server.address": "host:1"}
        assert not any(one.is_error for one in collector.spans)

    def test_stages_are_when_they_were(self, collector: Collector, tracing: Tracing) -> None:
        now, wall = time.monotonic(), time.time()
        span = tracing.serve("generate", [])
        span.stage("queue", now - 3.0, now - 1.0)
        span.stage("fetch", now - 1.0, now, BadMediaError("https://secret"))
        span.end()
        queue, fetch, root = collector_order(collector, 3)
        assert queue.parent == fetch.parent == root.span_id
        assert (root.parent, root.kind, queue.kind) == ("", "server", "internal")
        assert abs(queue.start - (wall - 3.0)) < 0.1
        assert abs(queue.milliseconds - 2000) < 1
        assert abs(fetch.end - wall) < 0.1
        assert (queue.is_error, fetch.is_error) == (False, True)
        assert fetch.attributes == {"error.type": "bad_media"}

    def test_a_block_that_fails_and_one_that_is_cancelled(self, collector: Collector, tracing: Tracing) -> None:
        span = tracing.serve("generate", [])
        for error in (ValueError("what a client said"), asyncio.CancelledError()):
            with pytest.raises(type(error)), span.child("part"):
                raise error
        failed, cancelled = collector_order(collector, 2)
        assert (failed.is_error, failed.attributes, failed.events) == (True, {"error.type": "ValueError"}, ())
        assert (cancelled.is_error, cancelled.attributes) == (False, {})

    @pytest.mark.parametrize(
        "headers",
        [
            [("traceparent", "nonsense")],
            [("traceparent", f"00-{TRACE}-{PARENT}")],
            [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
            [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
            [("traceparent", f"00-{TRACE.upper()}-{PARENT}-01")],
            [("traceparent", b"\xff\xfe")],
            [SAMPLED, SAMPLED],
            [("tracestate", "a=b")],
        ],
    )
    def test_a_context_that_makes_no_sense_does_not_count(
        self, collector: Collector, tracing: Tracing, headers: list[tuple[str, str | bytes]]
    ) -> None:
        tracing.serve("POST /v1", headers).end()
        (span,) = collector_order(collector, 1)
        assert span.parent == ""
        assert span.trace_id != TRACE
        assert span.state == ""

    def test_what_the_client_does_not_sample_is_passed_on_and_not_exported(
        self, collector: Collector, tracing: Tracing
    ) -> None:
        span = tracing.serve("POST /v1", [("traceparent", f"00-{TRACE}-{PARENT}-00")])
        assert (span.is_recorded, span.trace_id) == (False, "")
        span.stage("queue", 1.0, 2.0)
        with span.child("encode", calls=True) as call:
            theirs = tracing.serve("encode", call.headers.items())
            assert call.headers["traceparent"].startswith(f"00-{TRACE}-")
            assert call.headers["traceparent"].endswith("-00")
            assert not theirs.is_recorded
            theirs.end()
        span.end()
        tracing.close()
        assert collector.spans == []

    def test_the_environment_decides_on_sampling(self, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        with closing(tracing_from_environment("epd-test")) as tracing:
            assert not tracing.serve("POST /v1", []).is_recorded
            assert tracing.serve("POST /v1", [SAMPLED]).is_recorded

    @pytest.mark.parametrize(
        ("variables", "name"),
        [
            ({}, "epd-test"),
            ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
            ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=yours,deployment.environment=ours"}, "yours"),
        ],
    )
    def test_what_the_service_is_called(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
    ) -> None:
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        with closing(tracing_from_environment("epd-test")) as tracing:
            tracing.serve("POST /v1", []).end()
        (resource,) = collector.resources
        assert resource["service.name"] == name
        assert resource["service.version"]
        assert ("deployment.environment" in resource) == (name == "yours")

    def test_a_collector_that_does_not_answer_does_not_hold_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(common.tracing, "_CLOSE_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
            tracing = tracing_from_environment("epd-test")
            tracing.serve("POST /v1", []).end()
            began = time.monotonic()
            tracing.close()
            assert time.monotonic() - began < 1.5


def collector_order(collector: Collector, count: int) -> list[Collected]:
    """In the order in which they ended."""
    return sorted(collector.wait(count), key=lambda span: span.end)
