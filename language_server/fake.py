"""A fake language server: the whole protocol on the real wire, and answers from a script.

A tool for testing what stands around it, without weights and without torch. It demands embeddings like a real one,
receives them into a real inbox, and checks that they are what a fake encode server makes.

What it does with SamplingParams (proto/language.proto), all of which it checks like a real server:

    max_tokens, min_tokens, ignore_eos, stop_token_ids    are honoured
    logprobs, prompt_logprobs                             are made up, see fake_logprobs.py
    grammar                                               is not looked at: the script has to say an answer that fits
    temperature, top_p, top_k, min_p, seed, choice,       have no meaning where nothing is drawn
    penalties, logit_bias, allowed_token_ids, bad_words
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc

from common import __version__, rpc
from common.config import Address, CommonOptions, Size, option
from common.embeddings import EmbeddingLayout
from common.errors import MovedError
from common.fake_embeddings import embedding_dtype
from common.fingerprint import model_fingerprint
from common.lifecycle import Shutdown
from common.metrics import serve_metrics, split_address, watch_serving
from common.models.config import ModelConfig
from common.pb import common_pb2, embedding_pb2, engine_pb2, language_pb2_grpc
from common.pb import language_pb2 as pb
from common.state import write_state
from common.tracing import OFF, Tracing, tracing_from_environment
from common.transport.address import advertised, join
from common.transport.base import Receiver
from common.transport.grpc import GrpcReceiver
from common.transport.zmq import ZmqReceiver
from language_server import sessions
from language_server.fake_engine import FakeEngine
from language_server.fake_request import FakeAdmission, FakeModel
from language_server.fake_script import Script
from language_server.inbox import Inbox, InboxMetrics
from language_server.metrics import LanguageMetrics
from language_server.model_files import stream_model_files
from language_server.sessions import Sessions

log = logging.getLogger(__name__)

SERVICE = "epd.v1.LanguageService"


@dataclass(frozen=True, kw_only=True)
class FakeLanguageConfig(CommonOptions):
    """A fake language server: token ids in, a scripted answer out."""

    model: Path | None = option(None, help="checkpoint directory; weights are not needed", metavar="DIR")
    listen: Address = option("127.0.0.1:9002", help="gRPC address")
    data_listen: Address = option("127.0.0.1:9003", help="address of the embedding data plane")
    data_advertise: str | None = option(
        None, help="the data plane's address as encode servers see it", metavar="HOST[:PORT]"
    )
    metrics_listen: Address | None = option("127.0.0.1:9102", help="Prometheus address")
    dtype: Literal["auto", "bfloat16", "float32"] = option("auto", help="of embeddings; auto: the checkpoint's")
    max_model_len: int = option(0, help="longest prompt and answer together, in tokens; 0: the model's own")
    max_waiting: int = option(1024, help="requests at once; more are refused")
    inbox_bytes: Size = option(256 << 20, help="room for received embeddings, and for the keys of earlier ones")
    script: Path | None = option(
        None,
        help="answers: a JSON list, or JSON lines, of objects with match, answer or tokens, delay_seconds, "
        "tokens_per_second, cached_tokens, error, message",
        metavar="FILE",
    )
    rate: float = option(100.0, help="tokens a second of each request; 0: all at once")
    verify: bool = option(True, help="refuse embeddings that are not a fake encode server's")
    drain_seconds: float = option(30.0, help="after SIGTERM, before running requests are moved elsewhere")

    def __post_init__(self) -> None:
        for name in ("max_model_len", "rate", "drain_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")
        for name in ("max_waiting", "inbox_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")


class FakeLanguageServer(language_pb2_grpc.LanguageServiceServicer):
    """One fake language server from `start` to `stop`."""

    def __init__(self, config: FakeLanguageConfig, tracing: Tracing = OFF) -> None:
        self._config = config
        self._tracing = tracing
        self._boot_id = secrets.token_bytes(16)
        self._load = common_pb2.Load()
        self.metrics = LanguageMetrics()
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Binds and takes requests.

        Raises:
            OSError, ValueError: what can't be read or bound, and why.
        """
        config = self._config
        if config.model is None:
            raise ValueError("--model is required")
        self._model_dir = config.model
        model = FakeModel.load(config.model, max_model_len=config.max_model_len)
        script = Script.load(config.script) if config.script is not None else Script()
        shape = _shape(model.config, config.dtype)
        max_item_rows = config.inbox_bytes // shape.total_bytes if model.config.vision else 0
        self.info = _model_info(model, shape, model_fingerprint(config.model), max_item_rows)
        self._inbox = Inbox(
            on_filled=lambda grant_id: self._engine.send(engine_pb2.EngineCommand(filled=grant_id)),
            on_closed=self._grant_closed,
            metrics=InboxMetrics(self.metrics.registry),
        )
        self._engine = FakeEngine(
            FakeAdmission(model, script, max_item_rows=max_item_rows, rate=config.rate),
            shape=shape,
            inbox=self._inbox,
            on_events=self._take_events,
            capacity=config.inbox_bytes,
            max_waiting=config.max_waiting,
            verify=config.verify,
        )
        self._sessions = Sessions(
            fingerprint=self.info.fingerprint,
            send=self._engine.send,
            complete=self._complete_grant,
            tracing=self._tracing,
        )
        await self._bind()
        self.running = asyncio.create_task(self._engine.run())
        await self._server.start()
        await self._health.set(True)

    async def _bind(self) -> None:
        config = self._config
        self._server = rpc.server()
        self._health = rpc.HealthReporter(self._server, [SERVICE])
        watch_serving(self.metrics.registry, lambda: self._health.serving)
        language_pb2_grpc.add_LanguageServiceServicer_to_server(self, self._server)
        grpc_receiver = GrpcReceiver(sink=self._inbox, server=self._server)
        zmq_receiver = ZmqReceiver(sink=self._inbox, listen=config.data_listen, advertise=config.data_advertise or "")
        self._receivers: list[Receiver] = [zmq_receiver, grpc_receiver]
        port = rpc.add_port(self._server, config.listen)
        outside = config.data_advertise.rpartition(":")[0] if config.data_advertise else ""
        grpc_receiver.advertise(advertised(config.listen, outside, port))
        for receiver in self._receivers:
            await receiver.start()
        self.addresses = {
            "grpc": join(split_address(config.listen)[0], port),
            "data": zmq_receiver.endpoint.address,
        }
        self._stop_metrics = None
        if config.metrics_listen is not None:
            metrics_port, self._stop_metrics = serve_metrics(self.metrics.registry, config.metrics_listen)
            self.addresses["metrics"] = join(split_address(config.metrics_listen)[0], metrics_port)

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new requests, lets running ones finish for `drain_seconds`, moves the rest elsewhere."""
        await self._health.set(False)
        self._sessions.refusing = True
        self._load.draining = True
        self._sessions.announce(self._load)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sessions.wait_idle(), drain_seconds)
        self.running.cancel()
        self._sessions.end(MovedError("the language server is shutting down"))
        for receiver in self._receivers:
            await receiver.stop()
        await self._server.stop(grace=1.0)
        if self._stop_metrics is not None:
            await asyncio.to_thread(self._stop_metrics)

    # -- the engine's events -----------------------------------------------------------------------------------------

    def _take_events(self, events: engine_pb2.EngineEvents) -> None:
        draining = self._load.draining
        self._load = events.events.load
        self._load.draining = draining
        self.metrics.update(events)
        self._sessions.deliver(events.events, events.timelines)

    def _complete_grant(self, grant: embedding_pb2.Grant) -> None:
        grant.boot_id = self._boot_id
        grant.endpoints.extend(receiver.endpoint for receiver in self._receivers)

    def _grant_closed(self, grant_id: bytes, reason: str) -> None:
        """From any thread: nobody writes under the grant any more."""
        receipt = embedding_pb2.Receipt(grant_id=grant_id, outcome=embedding_pb2.Receipt.REVOKED, detail=reason)
        for receiver in self._receivers:
            receiver.release(receipt)
        closed = engine_pb2.GrantClosed(grant_id=grant_id, reason=reason)
        self._engine.send(engine_pb2.EngineCommand(closed=closed))

    # -- gRPC; see proto/language.proto ------------------------------------------------------------------------------

    async def Session(
        self,
        commands: AsyncIterator[pb.SessionCommand],
        context: grpc.aio.ServicerContext[pb.SessionCommand, pb.SessionEvent],
    ) -> AsyncIterator[pb.SessionEvent]:
        session = self._sessions.open()
        session.events.put_nowait(pb.SessionEvent(load=self._load))
        reader = asyncio.create_task(self._read(commands, session))
        try:
            while (event := await session.events.get()) is not None:
                yield event
        finally:
            reader.cancel()
            self._sessions.close(session)

    async def _read(self, commands: AsyncIterator[pb.SessionCommand], session: sessions.Session) -> None:
        try:
            async for command in commands:
                self._sessions.handle(session, command)
        finally:
            session.events.put_nowait(None)

    async def GetModelInfo(self, request: common_pb2.GetModelInfoRequest, context: object) -> common_pb2.ModelInfo:
        return self.info

    async def GetModelFiles(self, request: pb.GetModelFilesRequest, context: object) -> AsyncIterator[pb.FileChunk]:
        for chunk in stream_model_files(self._model_dir):
            yield chunk

    async def GetServerInfo(self, request: common_pb2.GetServerInfoRequest, context: object) -> common_pb2.ServerInfo:
        return common_pb2.ServerInfo(version=__version__, boot_id=self._boot_id, load=self._load)


async def serve(config: FakeLanguageConfig) -> int:
    """Runs a fake language server until SIGTERM; the process's exit status."""
    tracing = tracing_from_environment("epd-language")
    with Shutdown() as shutdown:
        server = FakeLanguageServer(config, tracing)
        await server.start()
        server.running.add_done_callback(lambda _: shutdown.request("the fake engine broke"))
        write_state(config.state_file, "language", server.addresses)
        log.info("FAKE: serving made-up answers, gRPC at %s, data at %s", *map(server.addresses.get, ("grpc", "data")))
        await shutdown.wait()
        broken = server.running.done()
        await server.stop(0.0 if broken else config.drain_seconds)
    await asyncio.to_thread(tracing.close)
    if broken:
        log.error("the fake engine broke", exc_info=server.running.exception())
    return int(broken)


def _shape(config: ModelConfig, dtype: str) -> EmbeddingLayout:
    """The layout of one visual token."""
    return EmbeddingLayout(
        rows=1,
        hidden=config.text.hidden_size,
        levels=config.levels,
        dtype=embedding_dtype(dtype, config.dtype),
    )


def _model_info(
    model: FakeModel, shape: EmbeddingLayout, fingerprint: bytes, max_item_rows: int
) -> common_pb2.ModelInfo:
    config = model.config
    return common_pb2.ModelInfo(
        fingerprint=fingerprint,
        architecture=config.architecture,
        hidden=shape.hidden,
        levels=shape.levels,
        dtype=shape.dtype,
        protocol=rpc.PROTOCOL_VERSION,
        merge_size=config.vision.merge_size if config.vision else 0,
        vision=config.vision is not None,
        max_model_len=model.max_model_len,
        max_item_rows=max_item_rows,
        vocab_size=config.text.vocab_size,
        fake=True,
        name=model.name,
    )
