"""The health check of containers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.probe import probe


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 200 if self.path == "/well" else 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"waits for somebody")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def http_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_http(http_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # never asked
    assert probe(f"{http_url}/well") == ""
    assert "503: waits for somebody" in probe(f"{http_url}/ill")


def test_grpc() -> None:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert probe(f"grpc://{address}") == ""
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert probe(f"grpc://{address}") == f"{address} says NOT_SERVING"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ready", "grpc://127.0.0.1:1"])
def test_nobody_there(url: str) -> None:
    assert "can't be reached" in probe(url)


def test_other_urls_are_mistakes() -> None:
    with pytest.raises(ValueError, match="not an http"):
        probe("127.0.0.1:8000")
