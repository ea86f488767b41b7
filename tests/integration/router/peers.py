"""Encode and language servers that a test holds in its hand: real gRPC, no model, no data plane.

Embeddings travel by a method call (`LanguagePeer.deliver`), tokens come when the script says so, and every misfortune
that the router has to live with can be arranged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from common import rpc
from common.errors import BadMediaError, EPDError, MovedError
from common.fingerprint import ROUTER_FILES
from common.media_key import media_digest
from common.pb import common_pb2, embedding_pb2, encode_pb2, encode_pb2_grpc, language_pb2, language_pb2_grpc

MODEL_DIR = Path(__file__).parents[3] / "deploy" / "demo" / "model"
FINGERPRINT = b"\x07" * 32
EOS = 1128  # <|im_end|> of the demo's tokenizer
INFO = common_pb2.ModelInfo(
    fingerprint=FINGERPRINT,
    architecture="Qwen3VLMoeForConditionalGeneration",
    hidden=192,
    levels=3,
    dtype=common_pb2.BFLOAT16,
    protocol=rpc.PROTOCOL_VERSION,
    merge_size=2,
    vision=True,
    max_model_len=4096,
    max_item_rows=512,
    vocab_size=1252,
    processor_version=1,
)


@dataclass(kw_only=True, eq=False)
class Served:
    """One `Generate` at a language peer."""

    generate: language_pb2.Generate
    events: asyncio.Queue[language_pb2.SessionEvent]
    waiting: dict[bytes, asyncio.Event] = field(default_factory=dict)  # key -> received
    grants: list[embedding_pb2.Grant] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


def made_up_logprobs(token: int, count: int) -> language_pb2.TokenLogprobs:
    """The token is the second likeliest: after the one that follows it in the vocabulary, before the rest of these."""
    steps = [1, 0, *range(2, count)]
    return language_pb2.TokenLogprobs(
        logprob=-1.0,
        rank=2,
        top_ids=[(token + step) % INFO.vocab_size for step in steps[:count]],
        top_logprobs=[-0.5 * (1 + i) for i in range(count)],
    )


Script = Callable[[language_pb2.Generate], Sequence[int]]


class Peer:
    """What both have in common: a server on a port of its own, which can be stopped, killed and started again."""

    service = ""

    def __init__(self, *, port: int = 0, info: common_pb2.ModelInfo = INFO) -> None:
        self.info = info
        self.port = port
        self.boot_id = secrets.token_bytes(16)
        self.load = common_pb2.Load()
        self.server: grpc.aio.Server | None = None
        self.health: rpc.HealthReporter | None = None
        self.hangs = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_to(self, server: grpc.aio.Server) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        self.boot_id = secrets.token_bytes(16)
        self.server = rpc.server()
        self.add_to(self.server)
        self.health = rpc.HealthReporter(self.server, [self.service])
        self.port = rpc.add_port(self.server, self.address)
        await self.server.start()
        await self.health.set(True)

    async def kill(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    async def GetModelInfo(self, request: object, context: object) -> common_pb2.ModelInfo:
        return self.info

    async def GetServerInfo(self, request: object, context: object) -> common_pb2.ServerInfo:
        if self.hangs:
            await asyncio.Event().wait()
        return common_pb2.ServerInfo(version="test", boot_id=self.boot_id, load=self.load)


class LanguagePeer(Peer, language_pb2_grpc.LanguageServiceServicer):
    """Answers with the tokens of `script`, one a step; with a `pace`, only as many as it was told."""

    service = "epd.v1.LanguageService"

    def __init__(self, script: Script, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.script = script
        self.held: set[bytes] = set()
        self.served: list[Served] = []
        self.arrived = asyncio.Condition()
        self.pace: asyncio.Semaphore | None = None  # a permit a token
        self.refusal: EPDError | None = None
        self.lost: list[language_pb2.GrantLost] = []
        self.second_needs = False  # asks again for what it was given, once
        self.cached_tokens = (0, 0)  # of every prompt, as told when it is admitted, and with the first output
        self.model_files = {
            name: (MODEL_DIR / name).read_bytes() for name in ROUTER_FILES if (MODEL_DIR / name).is_file()
        }

    def add_to(self, server: grpc.aio.Server) -> None:
        language_pb2_grpc.add_LanguageServiceServicer_to_server(self, server)

    async def kill(self) -> None:
        await super().kill()
        for served in self.served:
            if served.task is not None:
                served.task.cancel()

    async def GetModelFiles(self, request: object, context: object) -> AsyncIterator[language_pb2.FileChunk]:
        for name, content in self.model_files.items():
            half = len(content) // 2
            yield language_pb2.FileChunk(name=name, data=content[:half])
            yield language_pb2.FileChunk(name=name, data=content[half:], last=True)

    async def Session(
        self, commands: AsyncIterator[language_pb2.SessionCommand], context: object
    ) -> AsyncIterator[language_pb2.SessionEvent]:
        events: asyncio.Queue[language_pb2.SessionEvent] = asyncio.Queue()
        reader = asyncio.create_task(self._read(commands, events))
        try:
            while True:
                event = await events.get()
                while not events.empty():  # one message a step, for all requests
                    event.MergeFrom(events.get_nowait())
                event.load.CopyFrom(self.load)
                yield event
        finally:
            reader.cancel()

    async def request(self, count: int = 1) -> Served:
        """The latest request, once `count` of them have arrived."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.served) >= count)
        return self.served[-1]

    async def deliver(self, grant: embedding_pb2.Grant) -> bool:
        """What an encode server does with a grant; False if the grant is void."""
        for served in self.served:
            for key, given in [(key, given) for given in served.grants for key in served.waiting]:
                if given.id == grant.id and key == self._key_of[grant.id]:
                    self.held.add(key)
                    served.waiting[key].set()
                    return True
        return False

    # -- inside ---------------------------------------------------------------------------------------------------

    _key_of: dict[bytes, bytes]

    async def _read(
        self,
        commands: AsyncIterator[language_pb2.SessionCommand],
        events: asyncio.Queue[language_pb2.SessionEvent],
    ) -> None:
        async for command in commands:
            match command.WhichOneof("command"):
                case "generate":
                    served = Served(generate=command.generate, events=events)
                    served.task = asyncio.create_task(self._serve(served))
                    async with self.arrived:
                        self.served.append(served)
                        self.arrived.notify_all()
                case "abort":
                    for served in self.served:
                        if served.generate.handle == command.abort.handle:
                            served.aborted.set()
                            assert served.task is not None
                            served.task.cancel()
                case "grant_lost":
                    self.lost.append(command.grant_lost)
                    for served in self.served:
                        if served.generate.handle == command.grant_lost.handle:
                            self._need(served, command.grant_lost.key)

    def _need(self, served: Served, key: bytes) -> None:
        rows = next(span.item_rows for span in served.generate.spans if span.key == key)
        grant = embedding_pb2.Grant(
            id=secrets.token_bytes(16),
            layout=embedding_pb2.EmbeddingLayout(rows=rows, hidden=192, levels=3, dtype=common_pb2.BFLOAT16),
            endpoints=[embedding_pb2.Endpoint(transport=embedding_pb2.ZMQ, address=self.address)],
            boot_id=self.boot_id,
        )
        self._key_of = {**getattr(self, "_key_of", {}), grant.id: key}
        served.grants.append(grant)
        need = language_pb2.Need(handle=served.generate.handle, key=key, grant=grant)
        served.events.put_nowait(language_pb2.SessionEvent(needs=[need]))

    async def _serve(self, served: Served) -> None:
        generate, events = served.generate, served.events
        handle = generate.handle
        if self.refusal is not None:
            self._finish(served, language_pb2.Finished.ERROR, error=self.refusal.to_wire())
            return
        keys = list(dict.fromkeys(span.key for span in generate.spans))
        needed = [key for key in keys if key not in self.held]
        served.waiting = {key: asyncio.Event() for key in needed}
        admitted = language_pb2.Admitted(handle=handle, cached_tokens=self.cached_tokens[0], needed_keys=needed)
        events.put_nowait(language_pb2.SessionEvent(admitted=[admitted]))
        for key in needed:
            self._need(served, key)
        for key in needed:
            await served.waiting[key].wait()
            if self.second_needs:
                self.second_needs = False
                served.waiting[key].clear()
                self._need(served, key)
                await served.waiting[key].wait()
            received = language_pb2.Received(handle=handle, key=key)
            events.put_nowait(language_pb2.SessionEvent(received=[received]))
        if generate.sampling.HasField("prompt_logprobs"):
            self._send_prompt_logprobs(served)
        tokens = list(self.script(generate))
        stops = set(generate.sampling.stop_token_ids) | (set() if generate.sampling.ignore_eos else {EOS})
        made = list(generate.resumed_output_ids)
        assert made == tokens[: len(made)], "resumed with other tokens than were made"
        for token in tokens[len(made) :]:
            if self.pace is not None:
                await self.pace.acquire()
            made.append(token)
            output = language_pb2.StepOutput(handle=handle, token_ids=[token])
            if len(made) == 1:
                output.cached_tokens = self.cached_tokens[1]
            if generate.sampling.HasField("logprobs"):
                output.logprobs.append(made_up_logprobs(token, generate.sampling.logprobs))
            events.put_nowait(language_pb2.SessionEvent(outputs=[output]))
            if token in stops and len(made) > generate.sampling.min_tokens:
                self._finish(served, language_pb2.Finished.STOP, stop_token_id=token)
                return
            if len(made) == generate.sampling.max_tokens:
                break
            await asyncio.sleep(0)
        self._finish(served, language_pb2.Finished.LENGTH)

    def _send_prompt_logprobs(self, served: Served) -> None:
        """In two pieces, as a prompt that is prefilled in chunks."""
        generate = served.generate
        tokens = [made_up_logprobs(token, generate.sampling.prompt_logprobs) for token in generate.prompt_ids[1:]]
        half = len(tokens) // 2
        for start, piece in ((1, tokens[:half]), (1 + half, tokens[half:])):
            known = language_pb2.PromptLogprobs(handle=generate.handle, start=start, tokens=piece)
            served.events.put_nowait(language_pb2.SessionEvent(prompt_logprobs=[known]))

    def _finish(
        self,
        served: Served,
        reason: language_pb2.Finished.Reason,
        *,
        error: common_pb2.Error | None = None,
        stop_token_id: int | None = None,
    ) -> None:
        finished = language_pb2.Finished(
            handle=served.generate.handle,
            reason=reason,
            error=error,
            stop_token_id=stop_token_id,
            times=[
                common_pb2.StageTime(stage=stage, milliseconds=milliseconds)
                for stage, milliseconds in (("queue", 1.0), ("prefill", 2.0), ("decode", 3.0))
            ],
        )
        served.events.put_nowait(language_pb2.SessionEvent(finished=[finished]))

    def move_all(self) -> None:
        """What a server does at the end of its drain."""
        self.load.draining = True
        for served in self.served:
            assert served.task is not None
            if not served.task.done():
                served.task.cancel()
                self._finish(served, language_pb2.Finished.ERROR, error=MovedError("draining").to_wire())


class EncodePeer(Peer, encode_pb2_grpc.EncodeServiceServicer):
    """Every item has `rows` rows in one line; bytes that begin with "bad" are not an image."""

    service = "epd.v1.EncodeService"

    def __init__(self, ship: Callable[[embedding_pb2.Grant], Awaitable[bool]], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.ship = ship
        self.rows = 4
        self.frames = 2  # temporal patches of a video
        self.opened: list[encode_pb2.OpenEncode] = []
        self.cached: set[bytes] = set()
        self.uploads: list[bytes] = []
        self.refusal: EPDError | None = None
        self.breaks_off = False  # every call, as if it could not be reached
        self.on_grant: Callable[[], Awaitable[None]] | None = None  # instead of shipping
        self.ship_fails_revoked = True
        self.ended = asyncio.Event()  # any stream

    def add_to(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServiceServicer_to_server(self, server)

    async def Encode(
        self,
        commands: AsyncIterator[encode_pb2.EncodeCommand],
        context: grpc.aio.ServicerContext[encode_pb2.EncodeCommand, encode_pb2.EncodeEvent],
    ) -> AsyncIterator[encode_pb2.EncodeEvent]:
        try:
            opening = (await anext(commands)).open
            self.opened.append(opening)
            if self.breaks_off:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "a broken link")
            if self.refusal is not None:
                yield encode_pb2.EncodeEvent(error=self.refusal.to_wire())
                return
            send_media = opening.key not in self.cached
            yield encode_pb2.EncodeEvent(accepted=encode_pb2.EncodeAccepted(send_media=send_media), load=self.load)
            if send_media:
                body = b""
                while len(body) < sum(opening.sizes):
                    body += (await anext(commands)).chunk.data
                parts, start = [], 0
                for size in opening.sizes:
                    parts.append(body[start : start + size])
                    start += size
                assert media_digest(parts) == opening.media_digest
                self.uploads.append(body)
                if body.startswith(b"bad"):
                    yield encode_pb2.EncodeEvent(error=BadMediaError("it is not an image").to_wire())
                    return
            is_image = opening.kind == common_pb2.IMAGE
            t = 1 if is_image else self.frames
            metadata = common_pb2.MediaMetadata(
                grid=common_pb2.Grid(t=t, h=2, w=2 * self.rows),
                rows=t * self.rows,
                timestamps=[] if is_image else [0.25 + i for i in range(t)],
            )
            yield encode_pb2.EncodeEvent(metadata=metadata)
            async for command in commands:
                if self.on_grant is not None:
                    await self.on_grant()
                self.cached.add(opening.key)
                if await self.ship(command.grant):
                    times = [
                        common_pb2.StageTime(stage=stage, milliseconds=milliseconds)
                        for stage, milliseconds in (("preprocess", 4.0), ("vision", 5.0), ("transfer", 6.0))
                    ]
                    shipped = encode_pb2.Shipped(grant_id=command.grant.id, transport=embedding_pb2.ZMQ, times=times)
                    yield encode_pb2.EncodeEvent(shipped=shipped)
                else:
                    failed = encode_pb2.ShipFailed(grant_id=command.grant.id, revoked=self.ship_fails_revoked)
                    yield encode_pb2.EncodeEvent(ship_failed=failed)
        except StopAsyncIteration:
            pass  # the router gave it up
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    for peer in peers:
        await peer.start()
    try:
        yield
    finally:
        for peer in peers:
            await peer.kill()
