"""Prometheus: each service owns a registry, declares its metrics beside their owner, and shows them here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

# Seconds. From a frame on loopback to a long prefill.
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What is counted of one cache."""

    hits: Counter
    misses: Counter
    evictions: Counter
    bytes: Gauge
    entries: Gauge


class CacheMetrics:
    """The caches of a service, told apart by the label `cache`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["cache"], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["cache"], registry=registry, multiprocess_mode="livesum")

        self._hits = counter("epd_cache_hits", "Look-ups that found something.")
        self._misses = counter("epd_cache_misses", "Look-ups that found nothing.")
        self._evictions = counter("epd_cache_evictions", "Entries that made room for others.")
        self._bytes = gauge("epd_cache_bytes", "Bytes held, needed or not.")
        self._entries = gauge("epd_cache_entries", "Entries held, needed or not.")

    def cache(self, name: str) -> Cache:
        """The cache of this name, from now on shown."""
        return Cache(
            hits=self._hits.labels(name),
            misses=self._misses.labels(name),
            evictions=self._evictions.labels(name),
            bytes=self._bytes.labels(name),
            entries=self._entries.labels(name),
        )


class StageMetrics:
    """epd_stage_seconds: how long each stage takes, by the label `stage`.

    Args:
        registry: of the service.
        text: whose stages they are.
        names: of all stages that the service has; there are no others.
    """

    def __init__(self, registry: CollectorRegistry, text: str, names: Sequence[str]) -> None:
        histogram = Histogram("epd_stage_seconds", text, ["stage"], buckets=STAGE_BUCKETS, registry=registry)
        self._by_name = {name: histogram.labels(name) for name in names}

    def observe(self, stage: str, seconds: float) -> None:
        self._by_name[stage].observe(seconds)


def watch_serving(registry: CollectorRegistry, serving: Callable[[], bool]) -> None:
    """epd_serving: what the health service says; from any thread."""
    gauge = Gauge(
        "epd_serving", "1 while health says SERVING, 0 while it drains or makes no progress.", registry=registry
    )
    gauge.set_function(lambda: float(serving()))


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    is_literal = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not is_literal):
        raise ValueError(f"not a HOST:PORT address: {address!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  (":9101" means every interface)


def serve_metrics(registry: CollectorRegistry, address: str) -> tuple[int, Callable[[], None]]:
    """Shows `registry` at http://address/metrics from a thread of its own; returns the port and a stop function.

    Raises:
        OSError: the address is taken or not ours.
    """
    host, port = split_address(address)
    try:
        httpd, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise OSError(f"can't show metrics at {address}: {error.strerror or error}") from None

    def stop() -> None:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    return httpd.server_port, stop
