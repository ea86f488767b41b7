"""The router as a process: start, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from common import __version__
from common.config import describe
from common.lifecycle import Shutdown
from common.state import write_state
from common.tracing import tracing_from_environment
from router.config import RouterConfig
from router.http.application import create_app
from router.http.protocol import Protocol
from router.listening import address_of, listen
from router.services import Services, make_services
from router.supervisor import supervise

log = logging.getLogger(__name__)

_CLOSE_S = 5  # for connections to end after the last answer
# Longer than clients and proxies keep connections that are not used: who closes first must not be us, or a request
# that is on its way is lost.
_KEEP_CONNECTION_S = 75
_WAITING_LOG_S = 10.0


async def serve(config: RouterConfig) -> int:
    """Runs the router until it is asked to end; returns the exit code.

    Raises:
        OSError: the address is taken or not ours.
        ConfigError: a file that an option names can't be used.
    """
    log.info("router %s: %s", __version__, describe(config))
    if config.workers > 1:
        return await supervise(config)
    with listen(config.host, config.port) as listener:
        return await serve_on(listener, config)


async def serve_on(listener: socket.socket, config: RouterConfig, *, shared: Path | None = None) -> int:
    """As `serve`, in this process alone.

    Args:
        listener: bound and listening.
        config: of the router.
        shared: a folder that all processes of this router have in common; see `make_services`.
    """
    tracing = tracing_from_environment("epd-router")
    with Shutdown() as shutdown:
        async with make_services(config, shared=shared, tracing=tracing) as services:
            server = make_server(services)
            gc.collect()
            gc.freeze()  # code and libraries stay for good: no collection has to look at them again
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            write_state(config.state_file, "router", {"http": address_of(listener)})
            log.info("listening on http://%s", address_of(listener))
            waiting = asyncio.create_task(_log_waiting(services))
            stopping = asyncio.create_task(shutdown.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if serving.done():
                stopping.cancel()
                serving.result()
                return 1
            log.info("finishing %d requests", services.gate.running)
            await services.gate.drain(config.drain_seconds)
            server.should_exit = True
            await serving
    await asyncio.to_thread(tracing.close)
    return 0


def make_server(services: Services) -> uvicorn.Server:
    """The HTTP server, which leaves signals to others."""
    return _Server(
        uvicorn.Config(
            create_app(services),
            http=Protocol,
            h11_max_incomplete_event_size=services.config.max_header_bytes,
            timeout_keep_alive=_KEEP_CONNECTION_S,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_S,
        )
    )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _log_waiting(services: Services) -> None:
    """Says what is waited for, now and then, until all is there."""
    while not (state := services.fleet.readiness()).image:
        log.info("waiting for: %s", "; ".join(state.waiting_for) or "servers")
        await asyncio.sleep(_WAITING_LOG_S)
    log.info("ready: text%s", " and images" if services.fleet.has_vision else "")
