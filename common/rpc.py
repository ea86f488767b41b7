"""gRPC as every service uses it: channel and server options, health and reflection."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer as AsyncHealthServicer
from grpc_reflection.v1alpha import reflection

PROTOCOL_VERSION = 1
CHUNK_BYTES = 1 << 20  # of media and of model files
MAX_MESSAGE_BYTES = 16 << 20  # a data-plane frame of 8 MiB, a prompt of a million tokens, and room

_COMMON = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer that vanished without a word (power, network) is noticed within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# The router decides about retries; and channels to one address must not share a connection between roles.
_CLIENT = (*_COMMON, ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
_SERVER = (
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),  # a second server on a taken port is an error, not a half share
)


def channel(address: str) -> grpc.aio.Channel:
    """A plaintext channel to "host:port"; it connects lazily and reconnects by itself."""
    return grpc.aio.insecure_channel(address, options=(*_CLIENT, ("grpc.initial_reconnect_backoff_ms", 200)))


class HealthReporter:
    """The standard health service, and reflection of `services` (full names).

    Attributes:
        serving: what it says now.
    """

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._servicer = AsyncHealthServicer()
        self._services = ("", *services)
        self.serving = False
        self._since = time.monotonic()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    @property
    def seconds_not_serving(self) -> float:
        """For how long it has said so; 0 while it serves."""
        return 0.0 if self.serving else time.monotonic() - self._since

    async def set(self, serving: bool) -> None:
        if serving != self.serving:
            self.serving, self._since = serving, time.monotonic()
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, status.SERVING if serving else status.NOT_SERVING)


def server() -> grpc.aio.Server:
    """A server to which services are added and a port is bound (`add_port`)."""
    return grpc.aio.server(options=_SERVER)


def add_port(server: grpc.aio.Server, address: str) -> int:
    """Binds "host:port" (port 0: any free one) and returns the port.

    Raises:
        OSError: the address is taken or not ours.
    """
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise OSError(f"can't listen on {address}: it is in use, or not an address of this machine")
    return port
