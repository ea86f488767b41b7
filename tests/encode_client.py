"""The router's end of an `Encode` stream, and a language server's inbox to ship to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import grpc
from prometheus_client import CollectorRegistry

from common.embeddings import EmbeddingLayout
from common.media_key import media_digest, media_key
from common.pb import common_pb2, embedding_pb2, encode_pb2, encode_pb2_grpc
from common.rpc import CHUNK_BYTES
from language_server.inbox import Inbox, InboxMetrics

TIMEOUT = 20.0  # seconds after which a test has failed


class EncodeClient:
    """One stream; `fingerprint` is the server's model."""

    def __init__(self, channel: grpc.aio.Channel, fingerprint: bytes) -> None:
        self._call = encode_pb2_grpc.EncodeServiceStub(channel).Encode(timeout=TIMEOUT)
        self._fingerprint = fingerprint
        self.loads: list[common_pb2.Load] = []

    async def open(
        self,
        parts: Sequence[bytes],
        *,
        kind: common_pb2.MediaKind = common_pb2.IMAGE,
        options: common_pb2.MediaOptions | None = None,
        dtype: common_pb2.DType = common_pb2.FLOAT32,
        **overrides: object,
    ) -> None:
        options = options or common_pb2.MediaOptions()
        digest = media_digest(parts)
        message = encode_pb2.OpenEncode(
            key=media_key(
                salt=b"", digest=digest, kind=kind, options=options, fingerprint=self._fingerprint, dtype=dtype
            ),
            kind=kind,
            options=options,
            fingerprint=self._fingerprint,
            sizes=[len(part) for part in parts],
            media_digest=digest,
            request_id="request",
        )
        message.MergeFrom(encode_pb2.OpenEncode(**overrides))  # type: ignore[arg-type]
        await self._call.write(encode_pb2.EncodeCommand(open=message))

    async def send(self, parts: Sequence[bytes], chunk_bytes: int = CHUNK_BYTES) -> None:
        whole = b"".join(parts)
        for start in range(0, len(whole), chunk_bytes):
            chunk = encode_pb2.MediaChunk(data=whole[start : start + chunk_bytes])
            await self._call.write(encode_pb2.EncodeCommand(chunk=chunk))

    async def begin(self, parts: Sequence[bytes], **opening: object) -> common_pb2.MediaMetadata:
        """Opens, brings the media if asked to, and waits for the metadata."""
        await self.open(parts, **opening)  # type: ignore[arg-type]
        if (await self.event("accepted")).accepted.send_media:
            await self.send(parts)
        return (await self.event("metadata")).metadata

    async def grant(self, grant: embedding_pb2.Grant) -> None:
        await self._call.write(encode_pb2.EncodeCommand(grant=grant))

    async def event(self, kind: str) -> encode_pb2.EncodeEvent:
        """The next event, which has to be of this kind."""
        event = await self._call.read()
        assert event is not grpc.aio.EOF, f"the stream ended before {kind}: {await self._call.details()}"
        assert event.WhichOneof("event") == kind, event
        self.loads.append(event.load)
        return event

    async def error(self) -> common_pb2.Error:
        """The terminal error; nothing may follow it."""
        error = (await self.event("error")).error
        assert await self._call.read() is grpc.aio.EOF
        assert await self._call.code() is grpc.StatusCode.OK
        return error

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def ended(self) -> None:
        """Waits for the stream's orderly end."""
        assert await self._call.read() is grpc.aio.EOF
        assert await self._call.code() is grpc.StatusCode.OK

    def cancel(self) -> None:
        self._call.cancel()


class Arrivals:
    """An inbox and the memory that its grants lie in. Receivers write into it from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.inbox = Inbox(on_filled=self._filled, on_closed=self._closed, metrics=InboxMetrics(self.registry))
        self.endpoints: list[embedding_pb2.Endpoint] = []
        self._loop = asyncio.get_running_loop()
        self._boot_id = secrets.token_bytes(16)
        self._memory: dict[bytes, bytearray] = {}
        self._ends: dict[bytes, asyncio.Future[str]] = {}

    def grant(self, layout: EmbeddingLayout) -> embedding_pb2.Grant:
        grant_id = secrets.token_bytes(16)
        self._memory[grant_id] = bytearray(layout.total_bytes)
        self._ends[grant_id] = self._loop.create_future()
        self.inbox.open(grant_id, layout, memoryview(self._memory[grant_id]))
        return embedding_pb2.Grant(
            id=grant_id, layout=layout.to_wire(), endpoints=self.endpoints, boot_id=self._boot_id
        )

    async def embedding(self, grant: embedding_pb2.Grant) -> bytes:
        """What arrived, complete and verified."""
        assert await asyncio.wait_for(self._ends[grant.id], TIMEOUT) == "filled"
        return bytes(self._memory[grant.id])

    def so_far(self, grant: embedding_pb2.Grant) -> bytes:
        return bytes(self._memory[grant.id])

    def received(self, transport: str) -> float:
        """Payload bytes that came by one transport."""
        return self.registry.get_sample_value("epd_transfer_bytes_total", {"transport": transport}) or 0.0

    def _filled(self, grant_id: bytes) -> None:
        self._loop.call_soon_threadsafe(self._ends[grant_id].set_result, "filled")

    def _closed(self, grant_id: bytes, reason: str) -> None:
        self._loop.call_soon_threadsafe(self._ends[grant_id].set_result, f"closed: {reason}")
