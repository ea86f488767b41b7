"""What a router does for one request, written out by hand: the shortest client of both services."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from common import rpc
from common.media_key import media_digest, media_key
from common.pb import common_pb2, embedding_pb2, encode_pb2, encode_pb2_grpc, language_pb2_grpc
from common.pb import language_pb2 as pb
from common.rpc import CHUNK_BYTES


@dataclass(kw_only=True)
class Answer:
    """All that came back for one request."""

    token_ids: list[int] = field(default_factory=list)
    needed: list[bytes] = field(default_factory=list)
    grants: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    encode_events: list[encode_pb2.EncodeEvent] = field(default_factory=list)
    finished: pb.Finished = field(default_factory=pb.Finished)


class EncodeCall:
    """One `Encode` stream."""

    def __init__(self, router: StubRouter) -> None:
        self.call = router.encode.Encode()
        router.encode_calls.append(self)
        self.events: list[encode_pb2.EncodeEvent] = []

    async def read(self) -> str:
        """The kind of the next event, which is the last of `events`; "end" when there is none."""
        event = await self.call.read()
        if not isinstance(event, encode_pb2.EncodeEvent):
            return "end"
        self.events.append(event)
        return event.WhichOneof("event")

    async def open(
        self,
        parts: Sequence[bytes],
        *,
        key: bytes,
        fingerprint: bytes,
        kind: common_pb2.MediaKind = common_pb2.IMAGE,
        options: common_pb2.MediaOptions | None = None,
        digest: bytes | None = None,
        is_probe: bool = False,
        deadline_seconds: float = 0.0,
    ) -> str:
        """Opens, sends the media if they are asked for, and returns the kind of the event that follows."""
        opening = encode_pb2.OpenEncode(
            key=key,
            kind=kind,
            options=options,
            fingerprint=fingerprint,
            sizes=[len(part) for part in parts],
            media_digest=media_digest(parts) if digest is None else digest,
            is_probe=is_probe,
            deadline_seconds=deadline_seconds,
        )
        await self.call.write(encode_pb2.EncodeCommand(open=opening))
        kind_of_answer = await self.read()
        if kind_of_answer != "accepted":
            return kind_of_answer
        if self.events[-1].accepted.send_media:
            whole = b"".join(parts)
            for start in range(0, len(whole), CHUNK_BYTES):
                chunk = encode_pb2.MediaChunk(data=whole[start : start + CHUNK_BYTES])
                await self.call.write(encode_pb2.EncodeCommand(chunk=chunk))
        return await self.read()

    async def grant(self, grant: embedding_pb2.Grant) -> str:
        await self.call.write(encode_pb2.EncodeCommand(grant=grant))
        return await self.read()

    async def done(self) -> None:
        await self.call.done_writing()


class StubRouter:
    """One encode server, one language server, one session."""

    def __init__(self, encode: str, language: str) -> None:
        self._channels = (rpc.channel(encode or "127.0.0.1:9"), rpc.channel(language or "127.0.0.1:9"))
        self.encode = encode_pb2_grpc.EncodeServiceStub(self._channels[0])
        self.language = language_pb2_grpc.LanguageServiceStub(self._channels[1])
        self.answers: dict[int, Answer] = {}
        self._media: dict[bytes, bytes] = {}
        self._ends: dict[int, asyncio.Event] = {}
        self._encodes: set[asyncio.Task[None]] = set()
        self._heard: dict[int, asyncio.Event] = {}
        self.encode_calls: list[EncodeCall] = []
        self._handle = 0
        self.messages_with_outputs = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[StubRouter]:
        """Connected to both."""
        async with self.encode_session(), self.language_session():
            yield self

    @asynccontextmanager
    async def encode_session(self) -> AsyncIterator[StubRouter]:
        """Connected to the encode server only."""
        self.encode_info = await self.encode.GetModelInfo(common_pb2.GetModelInfoRequest())
        try:
            yield self
        finally:
            for call in self.encode_calls:
                call.call.cancel()
            await self._channels[0].close(None)

    @asynccontextmanager
    async def language_session(self) -> AsyncIterator[StubRouter]:
        """Connected to the language server only: for requests without media."""
        self.info = await self.language.GetModelInfo(common_pb2.GetModelInfoRequest())
        self.call = self.language.Session()
        reader = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            for task in (reader, *self._encodes):
                task.cancel()
            await asyncio.gather(reader, *self._encodes, return_exceptions=True)
            self.call.cancel()
            for channel in self._channels:
                await channel.close(None)

    def key(self, image: bytes) -> bytes:
        return media_key(
            salt=b"",
            digest=media_digest([image]),
            kind=common_pb2.IMAGE,
            options=common_pb2.MediaOptions(),
            fingerprint=self.info.fingerprint,
            dtype=self.info.dtype,
        )

    async def probe(self, image: bytes) -> common_pb2.MediaMetadata:
        call = EncodeCall(self)
        assert await call.open([image], key=self.key(image), fingerprint=self.info.fingerprint, is_probe=True) == (
            "metadata"
        )
        return call.events[-1].metadata

    async def start(self, prompt: Sequence[int | bytes], *, pad: int, max_tokens: int = 64, **more: object) -> int:
        """Submits a prompt of token ids and images (their places are expanded here); its handle."""
        ids: list[int] = []
        spans = []
        for part in prompt:
            if isinstance(part, int):
                ids.append(part)
                continue
            metadata, key = await self.probe(part), self.key(part)
            self._media[key] = part
            spans.append(
                pb.Span(key=key, rows=metadata.rows, token_offset=len(ids), grid=metadata.grid, item_rows=metadata.rows)
            )
            ids += [pad] * metadata.rows
        self._handle += 1
        sampling = pb.SamplingParams(max_tokens=max_tokens, top_p=1.0)
        generate = pb.Generate(
            handle=self._handle, fingerprint=self.info.fingerprint, prompt_ids=ids, spans=spans, sampling=sampling
        )
        generate.MergeFrom(pb.Generate(**more))
        return await self._submit(generate)

    async def ask_raw(self, **fields: object) -> pb.Finished:
        """Submits exactly these fields."""
        self._handle += 1
        generate = pb.Generate(handle=self._handle, fingerprint=self.info.fingerprint, **fields)
        return (await self.end(await self._submit(generate))).finished

    async def _submit(self, generate: pb.Generate) -> int:
        self.answers[generate.handle] = Answer()
        self._ends[generate.handle] = asyncio.Event()
        self._heard[generate.handle] = asyncio.Event()
        await self.call.write(pb.SessionCommand(generate=generate))
        return generate.handle

    async def abort(self, handle: int) -> None:
        await self.call.write(pb.SessionCommand(abort=pb.Abort(handle=handle)))

    async def heard(self, handle: int) -> None:
        """Returns after the first token."""
        await asyncio.wait_for(self._heard[handle].wait(), 20)

    async def end(self, handle: int) -> Answer:
        await asyncio.wait_for(self._ends[handle].wait(), 20)
        await asyncio.gather(*self._encodes)
        return self.answers[handle]

    async def ask(self, prompt: Sequence[int | bytes], *, pad: int, **more: object) -> Answer:
        return await self.end(await self.start(prompt, pad=pad, **more))

    async def _read(self) -> None:
        async for event in self.call:
            for admitted in event.admitted:
                self.answers[admitted.handle].needed += admitted.needed_keys
            for need in event.needs:
                self.answers[need.handle].grants.append(need.grant.id)
                task = asyncio.create_task(self._deliver(need))
                self._encodes.add(task)
                task.add_done_callback(self._encodes.discard)
            for received in event.received:
                self.answers[received.handle].received.append(received.key)
            self.messages_with_outputs += bool(event.outputs)
            for output in event.outputs:
                self.answers[output.handle].token_ids += output.token_ids
                self._heard[output.handle].set()
            for finished in event.finished:
                self.answers[finished.handle].finished = finished
                self._ends[finished.handle].set()

    async def _deliver(self, need: pb.Need) -> None:
        """Has the item encoded and shipped; a failure that the language server can't know of is reported to it."""
        call = EncodeCall(self)
        outcome = await call.open([self._media[need.key]], key=need.key, fingerprint=self.info.fingerprint)
        if outcome == "metadata":
            outcome = await call.grant(need.grant)
        self.answers[need.handle].encode_events += call.events
        if outcome != "shipped" and not call.events[-1].ship_failed.revoked:
            lost = pb.GrantLost(handle=need.handle, key=need.key, grant_id=need.grant.id)
            await self.call.write(pb.SessionCommand(grant_lost=lost))
        await call.done()


def image_of(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG as far as its header goes, and content of its own: all that a fake encode server looks at."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0" + hashlib.sha256(bytes([seed])).digest()
