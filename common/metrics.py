"""Prometheus: each service owns a registry, declares its metrics beside their owner, and shows them here."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

# Seconds. From a frame on loopback to a long prefill.
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    is_literal = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not is_literal):
        raise ValueError(f"not a HOST:PORT address: {address!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  (":9101" means every interface)


def serve_metrics(registry: CollectorRegistry, address: str) -> tuple[int, Callable[[], None]]:
    """Shows `registry` at http://address/metrics from a thread of its own; returns the port and a stop function."""
    host, port = split_address(address)
    httpd, thread = start_http_server(port, addr=host, registry=registry)

    def stop() -> None:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    return httpd.server_port, stop
