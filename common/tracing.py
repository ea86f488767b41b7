"""Traces: which spans a process makes of a request, and where they go. The one place that knows OpenTelemetry.

Off, unless the environment names an endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): then nothing is imported and nothing made.
Everybody else is handed a `Tracing` and makes `Span`s of it, whether it is on or not:

    span = tracing.serve("encode", context.invocation_metadata())    # child of the caller's, if it sent its context
    span.stage("vision", start, end)                                 # one that is over; times of time.monotonic()
    with span.child("ship") as shipping: ...                         # ends, and fails, with the block
    span.end()
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from asyncio import CancelledError
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from common import __version__
from common.config import ConfigError
from common.errors import EPDError
from common.pb import common_pb2

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as RecordedSpan

Attributes = Mapping[str, str | int | float | bool]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_CLOSE_S = 5.0  # for what is left to reach the collector
_NO_HEADERS: Mapping[str, str] = {}


class Span:
    """One that leaves no trace; and what every span can do."""

    is_recorded = False
    trace_id = ""  # 32 hex digits, if it is recorded

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells the next service whose child its span is (W3C Trace Context): lower case, maybe empty."""
        return _NO_HEADERS

    def child(self, name: str, attributes: Attributes = _NO_HEADERS, *, calls: bool = False) -> Span:
        """A span inside of this one, begun now. `calls`: another service will have a child of it."""
        return self

    def stage(self, name: str, start: float, end: float, error: BaseException | None = None) -> None:
        """A span inside of this one that is over; times are those of time.monotonic()."""

    def event(self, name: str) -> None:
        """Something happens now."""

    def set(self, attributes: Attributes) -> None:
        """Never of what clients entrust to us: see docs/logs-and-traces.md."""

    def fail(self, code: str) -> None:
        """It will have ended in an error."""

    def end(self) -> None:
        """It is over now. A second call does nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and not isinstance(error, CancelledError):
            self.fail(code_of(error))
        self.end()


class Tracing:
    """Switched off; and what it does when it is on."""

    def serve(self, name: str, headers: Iterable[tuple[str | bytes, str | bytes]]) -> Span:
        """The span of something that a client wants, begun now.

        Args:
            name: of what it wants.
            headers: of HTTP, metadata of gRPC: may hold the context of the client's span. One that makes no sense does
                not count.
        """
        return NO_SPAN

    def close(self) -> None:
        """Exports what is left, or gives up after some seconds. Blocks meanwhile."""


NO_SPAN = Span()
OFF = Tracing()


def code_of(error: BaseException) -> str:
    """A word for the kind of error."""
    return common_pb2.Error.Code.Name(error.code).lower() if isinstance(error, EPDError) else type(error).__name__


def check_tracing() -> bool:
    """Whether the environment (OTEL_...) wants traces.

    Raises:
        ConfigError: it wants them, but they can't be had.
    """
    environ = os.environ
    endpoint = next((name for name in _ENDPOINTS if environ.get(name)), None)
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if endpoint is None or exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {exporter!r}; otlp and none are possible")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        raise ConfigError(f"{_PROTOCOLS[1]} is {protocol!r}; {_PROTOCOL} is possible")
    if not environ[endpoint].startswith(("http://", "https://")):
        raise ConfigError(f"{endpoint} is not an http:// or https:// URL")
    if not all(map(_is_installed, _NEEDED)):
        raise ConfigError(f"{endpoint} is set, but OpenTelemetry is not installed: pip install 'epd-serve[tracing]'")
    return True


def tracing_from_environment(service: str) -> Tracing:
    """As OTEL_... say; see docs/logs-and-traces.md.

    Args:
        service: what this process is called, unless OTEL_SERVICE_NAME (or OTEL_RESOURCE_ATTRIBUTES) says otherwise.

    Raises:
        ConfigError: traces are wanted, but can't be had.
    """
    return _Recording(service) if check_tracing() else OFF


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a parent
        return False


class _Recording(Tracing):
    """On."""

    def __init__(self, service: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = Resource.create()
        ours = {"service.version": __version__}
        if str(named.attributes.get("service.name") or "unknown_service").startswith("unknown_service"):
            ours["service.name"] = service
        # Not made the global one: libraries would add spans of their own, with attributes that we don't know.
        self._provider: TracerProvider = TracerProvider(resource=named.merge(Resource(ours)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("epd-serve", __version__)
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()

    def serve(self, name: str, headers: Iterable[tuple[str | bytes, str | bytes]]) -> Span:
        parents, states = [], []
        for key, value in headers:
            match _text(key).lower():
                case "traceparent":
                    parents.append(_text(value))
                case "tracestate":
                    states.append(_text(value))
        carrier = {"traceparent": parents[0], "tracestate": ",".join(states)} if len(parents) == 1 else {}
        context = self._propagator.extract(carrier, context=self._trace.set_span_in_context(self._trace.INVALID_SPAN))
        span = self._tracer.start_span(name, context=context, kind=self._trace.SpanKind.SERVER)
        return _Recorded(self, span)

    def begin(self, parent: RecordedSpan, name: str, attributes: Attributes, *, calls: bool) -> RecordedSpan:
        kind = self._trace.SpanKind.CLIENT if calls else self._trace.SpanKind.INTERNAL
        context = self._trace.set_span_in_context(parent)
        span: RecordedSpan = self._tracer.start_span(name, context=context, kind=kind, attributes=attributes)
        return span

    def add(self, parent: RecordedSpan, name: str, start: float, end: float, error: BaseException | None) -> None:
        context, epoch = self._trace.set_span_in_context(parent), time.time() - time.monotonic()
        span = self._tracer.start_span(name, context=context, start_time=round(1e9 * (epoch + start)))
        if error is not None:
            self.fail(span, code_of(error))
        span.end(round(1e9 * (epoch + end)))

    def fail(self, span: RecordedSpan, code: str) -> None:
        span.set_attribute("error.type", code)
        span.set_status(self._trace.StatusCode.ERROR)

    def headers(self, span: RecordedSpan) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        self._propagator.inject(headers, context=self._trace.set_span_in_context(span))
        return headers

    def close(self) -> None:
        # In a thread that the end of the process does not wait for: a collector that does not answer must not hold it.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class _Recorded(Span):
    """A span of OpenTelemetry's. What is not sampled has a context to pass on, and no more."""

    def __init__(self, tracing: _Recording, span: RecordedSpan) -> None:
        self._tracing = tracing
        self._span = span
        self.is_recorded = span.is_recording()
        self.trace_id = f"{span.get_span_context().trace_id:032x}" if self.is_recorded else ""

    @property
    def headers(self) -> Mapping[str, str]:
        return self._tracing.headers(self._span)

    def child(self, name: str, attributes: Attributes = _NO_HEADERS, *, calls: bool = False) -> Span:
        if not self.is_recorded:
            return self
        return _Recorded(self._tracing, self._tracing.begin(self._span, name, attributes, calls=calls))

    def stage(self, name: str, start: float, end: float, error: BaseException | None = None) -> None:
        if self.is_recorded:
            self._tracing.add(self._span, name, start, end, error)

    def event(self, name: str) -> None:
        if self.is_recorded:
            self._span.add_event(name)

    def set(self, attributes: Attributes) -> None:
        if self.is_recorded:
            self._span.set_attributes(attributes)

    def fail(self, code: str) -> None:
        if self.is_recorded:
            self._tracing.fail(self._span, code)

    def end(self) -> None:
        if self.is_recorded:
            self.is_recorded = False
            self._span.end()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
