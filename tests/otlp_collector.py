"""A collector of traces on a free port: what OpenTelemetry's exporter sends, kept for a test to look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A span, with ids in hex ("" for none) and times in seconds since 1970."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    start: float
    end: float
    is_error: bool
    attributes: dict[str, str | int | float | bool]
    events: tuple[str, ...]
    state: str

    @property
    def milliseconds(self) -> float:
        return 1000 * (self.end - self.start)


class Collector:
    """Spans in the order in which they arrived."""

    def __init__(self) -> None:
        self.spans: list[Collected] = []
        self.resources: list[dict[str, str | int | float | bool]] = []
        self.url = ""
        self._arrived = threading.Condition()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            for resource_spans in request.resource_spans:
                resource = _plain(resource_spans.resource.attributes)
                self.resources.append(resource)
                for scope in resource_spans.scope_spans:
                    self.spans += [_collected(str(resource["service.name"]), span) for span in scope.spans]
            self._arrived.notify_all()

    def wait(self, count: int, timeout: float = 30.0) -> list[Collected]:
        """All spans, once there are `count` of them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.spans) >= count, timeout), self.spans
            return list(self.spans)


@contextmanager
def collecting(host: str = "127.0.0.1") -> Iterator[Collector]:
    """One that listens at `host`, an address of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    collector.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _collected(service: str, span: Span) -> Collected:
    return Collected(
        service=service,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_plain(span.attributes),
        events=tuple(event.name for event in span.events),
        state=span.trace_state,
    )


def _plain(attributes: list[KeyValue]) -> dict[str, str | int | float | bool]:
    return {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in attributes}
