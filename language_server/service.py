"""The language server: gRPC and the data plane in this process (the front), the engine in one of its own.

routers ── Session ──► Sessions ──► EngineClient ──► engine process
                          ▲              │ grants opened, revoked; what each step brought
encode servers ── frames ──► receivers ──► Inbox ──► arena (shared with the engine)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc

from common import __version__, rpc
from common.embeddings import EmbeddingLayout
from common.errors import MovedError, UnavailableError
from common.hub import resolve_model
from common.lifecycle import run_server
from common.logs import RateLimitedLog
from common.metrics import serve_metrics, split_address, watch_serving
from common.pb import common_pb2, embedding_pb2, engine_pb2, language_pb2_grpc
from common.pb import language_pb2 as pb
from common.tracing import OFF, Tracing, tracing_from_environment
from common.transport.address import advertised, join
from common.transport.base import Receiver
from common.transport.grpc import GrpcReceiver
from common.transport.local import LocalHub, LocalReceiver
from common.transport.zmq import ZmqReceiver
from language_server import sessions
from language_server.config import LanguageConfig
from language_server.engine.arena import Arena
from language_server.engine.options import EngineOptions
from language_server.engine.sizes import default_inbox_bytes
from language_server.engine_client import EngineClient
from language_server.inbox import Inbox, InboxMetrics
from language_server.metrics import LanguageMetrics
from language_server.model_files import model_name, stream_model_files
from language_server.sessions import Sessions

log = logging.getLogger(__name__)

SERVICE = "epd.v1.LanguageService"


class LanguageServer:
    """One language server from `start` to `stop`.

    Args:
        config: what the operator decided.
        hub: inboxes of this process, for an encode server that lives in it too.
        on_failure: called once if the server can't go on.
        tracing: of this process; the engine's only tells times.
    """

    def __init__(
        self,
        config: LanguageConfig,
        *,
        on_failure: asyncio.Future[str],
        hub: LocalHub | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._on_failure = on_failure
        self._hub = hub
        self._boot_id = secrets.token_bytes(16)
        self._load = common_pb2.Load()
        self._ready = False
        self.metrics = LanguageMetrics()
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Loads the model, binds, and takes requests. What was begun is undone if it can't be finished.

        Raises:
            EPDError, OSError, ValueError: what can't be loaded or bound, and why.
        """
        async with AsyncExitStack() as cleanup:
            await self._start(cleanup)
            self._cleanup = cleanup.pop_all()

    async def _start(self, cleanup: AsyncExitStack) -> None:
        config = self._config
        self._server = rpc.server()
        self._health = rpc.HealthReporter(self._server, [SERVICE])
        watch_serving(self.metrics.registry, lambda: self._health.serving)
        language_pb2_grpc.add_LanguageServiceServicer_to_server(_Servicer(self), self._server)
        cleanup.push_async_callback(self._server.stop, 1.0)
        port = rpc.add_port(self._server, config.listen)  # first, so that a taken port doesn't cost a loaded model
        outside = advertised(config.listen, _host(config.data_advertise), port)

        files = await asyncio.to_thread(resolve_model, config.model, config.revision, "language")
        self.model_dir = files.directory
        fingerprint = await asyncio.to_thread(files.fingerprint)
        self._arena = Arena.create(config.inbox_bytes or default_inbox_bytes())
        cleanup.callback(self._arena.close)
        self._engine = EngineClient(
            options=_engine_options(config, str(files.directory)),
            arena=self._arena,
            on_events=self._take_events,
            on_exit=self._engine_died,
            log_level=config.log_level,
            log_format=config.log_format,
        )
        self._sessions = Sessions(
            fingerprint=fingerprint,
            send=self._engine.send,
            complete=self._complete_grant,
            tracing=self._tracing,
        )
        self._inbox = Inbox(
            on_filled=lambda grant_id: self._engine.send(engine_pb2.EngineCommand(filled=grant_id)),
            on_closed=self._grant_closed,
            metrics=InboxMetrics(self.metrics.registry),
        )
        self.info = await self._engine.start()
        cleanup.push_async_callback(self._engine.stop)
        self.info.fingerprint = fingerprint
        self.info.name = model_name(config.model)
        await self._start_receivers(outside, cleanup)
        if config.metrics_listen is not None:
            metrics_port, stop_metrics = serve_metrics(self.metrics.registry, config.metrics_listen)
            cleanup.push_async_callback(asyncio.to_thread, stop_metrics)
            self.addresses["metrics"] = join(split_address(config.metrics_listen)[0], metrics_port)
        self.addresses["grpc"] = outside
        await self._server.start()
        self._ready = True
        await self._health.set(True)
        self._watch = asyncio.create_task(self._watch_progress())

    async def _start_receivers(self, outside: str, cleanup: AsyncExitStack) -> None:
        """The data plane; its first receiver is what encode servers prefer."""
        config = self._config
        zmq = ZmqReceiver(sink=self._inbox, listen=config.data_listen, advertise=config.data_advertise or "")
        grpc = GrpcReceiver(sink=self._inbox, server=self._server)
        grpc.advertise(outside)
        local = [] if self._hub is None else [LocalReceiver(sink=self._inbox, hub=self._hub)]
        self._receivers: list[Receiver] = [*local, zmq, grpc]
        for receiver in self._receivers:
            await receiver.start()
            cleanup.push_async_callback(receiver.stop)
        self._endpoints = [receiver.endpoint for receiver in self._receivers]
        self.addresses["data"] = zmq.endpoint.address

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new requests, lets running ones finish for `drain_seconds`, moves the rest, ends the engine.

        A second call does nothing.
        """
        if self._load.draining:
            return
        self._ready = False
        self._sessions.refusing = True
        self._load.draining = True
        self._sessions.announce(self._load)
        self._watch.cancel()
        await self._health.set(False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sessions.wait_idle(), drain_seconds)
        await self._engine.stop()
        self._sessions.end(MovedError("the language server is shutting down"))
        await self._cleanup.aclose()

    @property
    def load(self) -> common_pb2.Load:
        return self._load

    @property
    def sessions(self) -> Sessions:
        return self._sessions

    def server_info(self) -> common_pb2.ServerInfo:
        return common_pb2.ServerInfo(version=__version__, boot_id=self._boot_id, load=self._load)

    # -- the engine's events ------------------------------------------------------------------------------------

    def _take_events(self, events: engine_pb2.EngineEvents) -> None:
        for region in events.opened:
            layout = EmbeddingLayout.from_wire(region.layout)
            self._inbox.open(region.grant_id, layout, self._arena.region(region.offset, layout.total_bytes))
        for grant_id in events.revoked:
            self._inbox.revoke(grant_id)
        draining = self._load.draining
        self._load = events.events.load
        self._load.draining = draining
        self.metrics.update(events)
        self._sessions.deliver(events.events, events.timelines)

    def _complete_grant(self, grant: embedding_pb2.Grant) -> None:
        grant.boot_id = self._boot_id
        grant.endpoints.extend(self._endpoints)

    def _grant_closed(self, grant_id: bytes, reason: str) -> None:
        """From any thread: nobody writes under the grant any more."""
        receipt = embedding_pb2.Receipt(grant_id=grant_id, outcome=embedding_pb2.Receipt.REVOKED, detail=reason)
        for receiver in self._receivers:
            receiver.release(receipt)
        closed = engine_pb2.GrantClosed(grant_id=grant_id, reason=reason)
        self._engine.send(engine_pb2.EngineCommand(closed=closed))

    def _engine_died(self, reason: str) -> None:
        log.error("%s", reason)
        self._ready = False
        self._watch.cancel()
        self._dying = asyncio.create_task(self._health.set(False))
        self._sessions.refusing = True
        self._sessions.end(UnavailableError("the language server's engine died"))
        if not self._on_failure.done():
            self._on_failure.set_result(reason)

    async def _watch_progress(self) -> None:
        """Health combines liveness with progress: an engine that has work and makes no step is not serving."""
        while True:
            await asyncio.sleep(min(1.0, self._config.stall_seconds / 4))
            stuck = self._engine.seconds_without_progress > self._config.stall_seconds
            deaf = [receiver for receiver in self._receivers if not receiver.healthy]
            if (stuck or deaf) and self._ready:
                log.error("not serving: %s", "the engine makes no step" if stuck else "the data plane's receiver broke")
            if self._ready == bool(stuck or deaf):
                self._ready = not self._ready
                await self._health.set(self._ready)
            if 0 < self._config.give_up_seconds < self._health.seconds_not_serving and not self._on_failure.done():
                self._on_failure.set_result(f"not serving for {self._health.seconds_not_serving:.0f} s")


class _Servicer(language_pb2_grpc.LanguageServiceServicer):
    """gRPC's side of it; see proto/language.proto."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server
        self._warn = RateLimitedLog(log)

    async def Session(
        self,
        commands: AsyncIterator[pb.SessionCommand],
        context: grpc.aio.ServicerContext[pb.SessionCommand, pb.SessionEvent],
    ) -> AsyncIterator[pb.SessionEvent]:
        session = self._server.sessions.open()
        session.events.put_nowait(pb.SessionEvent(load=self._server.load))
        reader = asyncio.create_task(self._read(commands, session))
        try:
            while (event := await session.events.get()) is not None:
                yield event
            if reader.done() and (error := reader.exception()) is not None:
                self._warn.warning("protocol", "a router broke the protocol, its session ends: %s", error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            reader.cancel()
            self._server.sessions.close(session)

    async def _read(self, commands: AsyncIterator[pb.SessionCommand], session: sessions.Session) -> None:
        """Raises InvalidRequestError when the router breaks the protocol."""
        try:
            async for command in commands:
                self._server.sessions.handle(session, command)
        finally:
            session.events.put_nowait(None)

    async def GetModelInfo(self, request: common_pb2.GetModelInfoRequest, context: object) -> common_pb2.ModelInfo:
        return self._server.info

    async def GetModelFiles(self, request: pb.GetModelFilesRequest, context: object) -> AsyncIterator[pb.FileChunk]:
        for chunk in stream_model_files(self._server.model_dir):
            yield chunk

    async def GetServerInfo(self, request: common_pb2.GetServerInfoRequest, context: object) -> common_pb2.ServerInfo:
        return self._server.server_info()


async def serve(config: LanguageConfig) -> int:
    """Runs a language server until SIGTERM, or until its engine fails; the process's exit status."""
    tracing = tracing_from_environment("epd-language")
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = LanguageServer(config, on_failure=failure, tracing=tracing)
    return await run_server("language", server, failure, config, tracing)


def _engine_options(config: LanguageConfig, model_dir: str) -> EngineOptions:
    return EngineOptions(
        model_dir=model_dir,
        dtype=config.dtype,
        device=config.device,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_step_tokens=config.max_step_tokens,
        max_waiting=config.max_waiting,
        kv_cache_bytes=config.kv_cache_bytes,
        gpu_memory_fraction=config.gpu_memory_fraction,
        block_size=config.block_size,
        prefix_caching=config.prefix_caching,
    )


def _host(address: str | None) -> str:
    """The host of "host:port", or "" for None."""
    return address.rpartition(":")[0] if address else ""
