"""Encode server, wire and language engine, with the engine in this process so that a test sees its logits.

image or video bytes ── Encode stream ──► EncodeServer ── frames ──► receiver ──► Inbox ──► arena ──► Engine
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from common import rpc
from common.embeddings import EmbeddingLayout
from common.media_key import media_digest
from common.pb import common_pb2, encode_pb2, encode_pb2_grpc
from common.pb import language_pb2 as pb
from common.transport.grpc import GrpcReceiver
from common.transport.local import LocalHub, LocalReceiver
from common.transport.zmq import ZmqReceiver
from encode_server.config import EncodeConfig
from encode_server.service import EncodeServer
from language_server.engine.arena import Arena
from language_server.engine.build import build_engine
from language_server.engine.options import EngineOptions
from language_server.inbox import Inbox, InboxMetrics


@dataclass(frozen=True, kw_only=True)
class Media:
    """A media item as a client sends it."""

    kind: common_pb2.MediaKind
    parts: tuple[bytes, ...]

    @property
    def key(self) -> bytes:
        return hashlib.sha256(bytes([self.kind]) + media_digest(self.parts)).digest()


class LogitsRecorder:
    """Stands before the model and keeps the logits of every row that was sampled from."""

    def __init__(self, model: Any) -> None:
        self._head = model.lm_head
        self.model = model.model
        self.embed_input_ids = model.embed_input_ids
        self.logits: list[torch.Tensor] = []

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        self.logits += list(logits.clone())
        return logits


class WirePath:
    """One encode server and one engine, joined by `transport`."""

    def __init__(self, server: EncodeServer, stub: Any, info: common_pb2.ModelInfo, engine: Any, arena: Arena) -> None:
        self._server = server
        self._stub = stub
        self._info = info
        self._arena = arena
        self.engine = engine
        self.receiver: Any = None
        self.inbox: Inbox | None = None
        self.recorder = LogitsRecorder(engine._runner._model)
        engine._runner._model = self.recorder
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._streams: dict[bytes, Any] = {}

    async def metadata(self, media: Media) -> common_pb2.MediaMetadata:
        """Opens the item's stream, sends its bytes if asked to, and returns its grid."""
        call = self._streams[media.key] = self._stub.Encode()
        opening = encode_pb2.OpenEncode(
            key=media.key,
            kind=media.kind,
            fingerprint=self._info.fingerprint,
            sizes=[len(part) for part in media.parts],
            media_digest=media_digest(media.parts),
        )
        await call.write(encode_pb2.EncodeCommand(open=opening))
        accepted = await call.read()
        assert accepted.WhichOneof("event") == "accepted", accepted
        if accepted.accepted.send_media:
            for part in media.parts:
                for start in range(0, len(part), rpc.CHUNK_BYTES):
                    chunk = encode_pb2.MediaChunk(data=part[start : start + rpc.CHUNK_BYTES])
                    await call.write(encode_pb2.EncodeCommand(chunk=chunk))
        event = await call.read()
        assert event.WhichOneof("event") == "metadata", event
        return event.metadata

    async def greedy(self, prompt_ids: Sequence[int], spans: Sequence[pb.Span], *, tokens: int) -> list[int]:
        """Answers over the wire; the logits of each token are in `recorder.logits` afterwards."""
        self.recorder.logits.clear()
        sampling = pb.SamplingParams(max_tokens=tokens, ignore_eos=True)
        self.engine.generate(pb.Generate(handle=1, prompt_ids=prompt_ids, spans=spans, sampling=sampling))
        made: list[int] = []
        shipments = []
        while True:
            self._wake.clear()
            events = self.engine.step()
            for region in events.opened:
                layout = EmbeddingLayout.from_wire(region.layout)
                self.inbox.open(region.grant_id, layout, self._arena.region(region.offset, layout.total_bytes))
            for grant_id in events.revoked:
                self.inbox.revoke(grant_id)
            for need in events.events.needs:
                need.grant.endpoints.append(self.receiver.endpoint)
                shipments.append(asyncio.create_task(self._ship(need)))
            for output in events.events.outputs:
                made += output.token_ids
            for finished in events.events.finished:
                assert finished.reason == pb.Finished.LENGTH, finished
                await asyncio.gather(*shipments)
                await self._close_streams()
                return made
            if self.engine.idle:
                await asyncio.wait_for(self._wake.wait(), 30)

    def filled(self, grant_id: bytes) -> None:
        """From a receiver's thread."""

        def take() -> None:
            self.engine.media_filled(grant_id)
            self._wake.set()

        self._loop.call_soon_threadsafe(take)

    async def _ship(self, need: pb.Need) -> None:
        call = self._streams[need.key]
        await call.write(encode_pb2.EncodeCommand(grant=need.grant))
        event = await call.read()
        assert event.WhichOneof("event") == "shipped", event

    async def _close_streams(self) -> None:
        for call in self._streams.values():
            await call.done_writing()
            assert await call.read() is rpc.grpc.aio.EOF
        self._streams.clear()


@asynccontextmanager
async def wire_path(model_dir: Path, transport: str, **options: Any) -> AsyncIterator[WirePath]:
    """Starts both sides in this process, joined by "zmq", "grpc" or "local"."""
    arena = Arena.create(8 << 20)
    defaults = {"dtype": "float32", "device": "cpu", "kv_cache_bytes": 16 << 20, "max_step_tokens": 2048}
    engine, _ = build_engine(EngineOptions(model_dir=str(model_dir), **{**defaults, **options}), arena)
    hub = LocalHub() if transport == "local" else None
    config = EncodeConfig(
        model=str(model_dir),
        listen="127.0.0.1:0",
        metrics_listen=None,
        dtype="float32",
        device="cpu",
        transport="auto" if hub else transport,
        encode_cache_bytes=64 << 20,
    )
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = EncodeServer(config, on_failure=failure, hub=hub)
    await server.start()
    channel = rpc.channel(server.addresses["grpc"])
    stub = encode_pb2_grpc.EncodeServiceStub(channel)
    path = WirePath(server, stub, await stub.GetModelInfo(common_pb2.GetModelInfoRequest()), engine, arena)
    metrics = InboxMetrics(CollectorRegistry())
    path.inbox = Inbox(on_filled=path.filled, on_closed=lambda *_: None, metrics=metrics)
    data_server = rpc.server()
    if transport == "zmq":
        path.receiver = ZmqReceiver(sink=path.inbox, listen="127.0.0.1:0")
    elif transport == "grpc":
        path.receiver = GrpcReceiver(sink=path.inbox, server=data_server)
        path.receiver.advertise(f"127.0.0.1:{rpc.add_port(data_server, '127.0.0.1:0')}")
    else:
        path.receiver = LocalReceiver(sink=path.inbox, hub=hub)
    await path.receiver.start()
    await data_server.start()
    try:
        yield path
    finally:
        await channel.close()
        await server.stop(0.0)
        await path.receiver.stop()
        await data_server.stop(None)
