"""A fake encode server: the whole protocol on the real wire, and embeddings that are made up from the media key.

A tool for testing what stands around it, without weights and without torch. It is as slow and as unreliable as its
options say; a fake language server can check what it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from google.protobuf.unknown_fields import UnknownFieldSet

from common import __version__, rpc
from common.config import Address, CommonOptions, Size, option
from common.embeddings import EmbeddingLayout
from common.errors import BadMediaError, DeadlineError, InvalidRequestError, ModelMismatchError
from common.fake_embeddings import embedding_dtype
from common.fingerprint import model_fingerprint
from common.lifecycle import Shutdown
from common.logs import RateLimitedLog
from common.media_key import PROCESSOR_VERSION
from common.metrics import serve_metrics, split_address, watch_serving
from common.models.config import load_config
from common.pb import common_pb2, embedding_pb2, encode_pb2, encode_pb2_grpc
from common.processor_config import read_rules
from common.stages import TimedStage
from common.state import write_state
from common.tracing import OFF, Tracing, tracing_from_environment
from common.transport.address import join
from common.transport.base import SendTimeouts, ShipError
from common.transport.senders import TransportChoice, network_senders
from encode_server.account import StreamAccount
from encode_server.fake_engine import FakeEngine, FakeItem
from encode_server.fake_faults import Faults
from encode_server.fake_media import plan
from encode_server.fake_stream import Stream
from encode_server.media.limits import MediaLimits
from encode_server.metrics import EncodeMetrics
from encode_server.uploads import Upload

if TYPE_CHECKING:
    from encode_server.fake_stream import Context

log = logging.getLogger(__name__)

SERVICE = "epd.v1.EncodeService"


@dataclass(frozen=True, kw_only=True)
class FakeEncodeConfig(CommonOptions):
    """A fake encode server: media in, made-up embeddings out."""

    model: Path | None = option(None, help="checkpoint directory; weights are not needed", metavar="DIR")
    listen: Address = option("127.0.0.1:9001", help="gRPC address")
    metrics_listen: Address | None = option("127.0.0.1:9101", help="Prometheus address")
    transport: TransportChoice = option("auto", help="data plane to language servers; auto: the one that each prefers")
    dtype: Literal["auto", "bfloat16", "float32"] = option("auto", help="of embeddings; auto: the checkpoint's")
    encode_cache_bytes: Size = option(256 << 20, help="embeddings that are kept")
    max_waiting_items: int = option(512, help="media items beyond which new ones are refused as overload")
    max_item_bytes: Size = option(256 << 20, help="media bytes of one item")
    delay: float = option(0.0, help="seconds that an item takes; one at a time")
    delay_per_row: float = option(0.0, help="seconds that it takes on top for each visual token")
    fail_rate: float = option(0.0, help="share of items whose encoding fails")
    corrupt_rate: float = option(0.0, help="share of shipments in which a bit is flipped")
    drop_rate: float = option(0.0, help="share of shipments in which a frame is withheld")
    seed: int = option(0, help="of these draws")
    receipt_seconds: float = option(5.0, help="until an unacknowledged shipment is given up")
    drain_seconds: float = option(30.0, help="after SIGTERM, to finish and ship what was begun")

    def __post_init__(self) -> None:
        for name in ("fail_rate", "corrupt_rate", "drop_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is a share of 1, not {getattr(self, name)}")
        for name in ("delay", "delay_per_row", "drain_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")
        for name in ("encode_cache_bytes", "max_waiting_items", "max_item_bytes", "receipt_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")


class FakeEncodeServer(encode_pb2_grpc.EncodeServiceServicer):
    """One fake encode server from `start` to `stop`."""

    def __init__(self, config: FakeEncodeConfig, tracing: Tracing = OFF) -> None:
        self._config = config
        self._tracing = tracing
        self._boot_id = secrets.token_bytes(16)
        self._faults = RateLimitedLog(log)
        self.metrics = EncodeMetrics()
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Binds and takes requests.

        Raises:
            OSError, ValueError: what can't be read or bound, and why.
        """
        config = self._config
        if config.model is None:
            raise ValueError("--model is required")
        self.info = _model_info(config.model, config.dtype)
        self._rules = read_rules(config.model)
        self._limits = MediaLimits(max_bytes=config.max_item_bytes)
        faults = Faults(
            fail_rate=config.fail_rate,
            corrupt_rate=config.corrupt_rate,
            drop_rate=config.drop_rate,
            seed=config.seed,
        )
        self.engine = FakeEngine(
            shape=EmbeddingLayout(rows=1, hidden=self.info.hidden, levels=self.info.levels, dtype=self.info.dtype),
            capacity=config.encode_cache_bytes,
            max_waiting_items=config.max_waiting_items,
            delay=config.delay,
            delay_per_row=config.delay_per_row,
            faults=faults,
            metrics=self.metrics,
        )
        timeouts = SendTimeouts(receipt=config.receipt_seconds)
        self._senders = network_senders(config.transport, timeouts=timeouts, framer=faults.cut)
        self._server = rpc.server()
        self._health = rpc.HealthReporter(self._server, [SERVICE])
        watch_serving(self.metrics.registry, lambda: self._health.serving)
        encode_pb2_grpc.add_EncodeServiceServicer_to_server(self, self._server)
        port = rpc.add_port(self._server, config.listen)
        self.addresses["grpc"] = join(split_address(config.listen)[0], port)
        self._stop_metrics = None
        if config.metrics_listen is not None:
            metrics_port, self._stop_metrics = serve_metrics(self.metrics.registry, config.metrics_listen)
            self.addresses["metrics"] = join(split_address(config.metrics_listen)[0], metrics_port)
        await self._server.start()
        await self._health.set(True)

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new items, hands back those not begun, ships the others for `drain_seconds`, then ends."""
        await self._health.set(False)
        await self.engine.drain(drain_seconds)
        await self._server.stop(grace=1.0)
        await self._senders.close()
        if self._stop_metrics is not None:
            await asyncio.to_thread(self._stop_metrics)

    async def GetModelInfo(self, request: common_pb2.GetModelInfoRequest, context: object) -> common_pb2.ModelInfo:
        return self.info

    async def GetServerInfo(self, request: common_pb2.GetServerInfoRequest, context: object) -> common_pb2.ServerInfo:
        return common_pb2.ServerInfo(version=__version__, boot_id=self._boot_id, load=self.engine.load())

    async def Encode(self, _: object, context: Context) -> None:
        """See proto/encode.proto."""
        span = self._tracing.serve("encode", context.invocation_metadata() or ())
        account = StreamAccount(self.metrics, span, self._faults)
        stream = Stream(context, self.engine, account)
        try:
            await self._serve(stream)
        except asyncio.CancelledError:
            account.abort()
            raise
        except Exception as error:  # noqa: BLE001  the boundary of the process: everything becomes one last event
            await stream.send(encode_pb2.EncodeEvent(error=account.fail(error).to_wire()))
        else:
            account.finish()

    async def _serve(self, stream: Stream) -> None:
        command = await stream.read()
        if command is None or command.WhichOneof("command") != "open":
            raise InvalidRequestError("an encode stream begins with `open`")
        stream.account.open(command.open)
        self._check(command.open)
        self.engine.check_open()
        stream.account.accept()
        try:
            async with asyncio.timeout(command.open.deadline_seconds or None):
                await self._encode(stream, command.open)
        except TimeoutError:
            raise DeadlineError("the deadline passed before the item was encoded and shipped") from None

    async def _encode(self, stream: Stream, opening: encode_pb2.OpenEncode) -> None:
        item = self.engine.known(opening.key)
        found_finished = item is not None and item.finished
        with contextlib.ExitStack() as held:
            if item is not None:
                held.enter_context(self.engine.use(item))
            await stream.send(encode_pb2.EncodeEvent(accepted=encode_pb2.EncodeAccepted(send_media=item is None)))
            metadata = item.metadata if item is not None else await self._receive(stream, opening)
            if item is None and not opening.is_probe:
                item = self.engine.add(opening.key, metadata)
                held.enter_context(self.engine.use(item))
            await stream.send(encode_pb2.EncodeEvent(metadata=metadata))
            if item is not None and not opening.is_probe:
                await self._deliver(stream, item, found_finished)

    async def _deliver(self, stream: Stream, item: FakeItem, found_finished: bool) -> None:
        """Ships the item once a grant, until the router needs no more.

        `found_finished`: its work was done, and accounted for, before this stream came.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(item.wait("main"))
                async for grant in stream.grants():
                    tasks.create_task(self._ship(stream, item, grant))
                watching.cancel()
        finally:
            stream.account.add(*([] if found_finished else item.stages))

    async def _receive(self, stream: Stream, opening: encode_pb2.OpenEncode) -> common_pb2.MediaMetadata:
        upload = Upload(sizes=opening.sizes, digest=opening.media_digest)
        with stream.account.stage("receive"):
            while not upload.complete:
                command = await stream.read()
                if command is None or command.WhichOneof("command") != "chunk":
                    raise InvalidRequestError("the media ended before all their bytes were sent")
                upload.add(command.chunk.data)
            parts = await asyncio.to_thread(upload.parts)
        with stream.account.stage("header"):
            return plan(self._rules, self._limits, opening.kind, parts, opening.options)

    async def _ship(self, stream: Stream, item: FakeItem, grant: embedding_pb2.Grant) -> None:
        await item.wait("main")
        try:
            delivery = await self._senders.ship(grant, item)
        except ShipError as error:
            self.metrics.ship_failures.labels(revoked=str(error.revoked).lower()).inc()
            failed = encode_pb2.ShipFailed(grant_id=grant.id, revoked=error.revoked, detail=str(error))
            return await stream.send(encode_pb2.EncodeEvent(ship_failed=failed))
        now = time.monotonic()
        self.metrics.count_delivery(delivery)
        transfer = TimedStage(name="transfer", start=now - delivery.seconds, end=now)
        self.metrics.observe(transfer)
        stream.account.add(transfer)
        times = {"vision": item.seconds, "transfer": delivery.seconds}
        shipped = encode_pb2.Shipped(
            grant_id=grant.id,
            bytes=delivery.payload_bytes,
            transport=delivery.transport,
            times=[common_pb2.StageTime(stage=stage, milliseconds=1000 * took) for stage, took in times.items()],
        )
        return await stream.send(encode_pb2.EncodeEvent(shipped=shipped))

    def _check(self, opening: encode_pb2.OpenEncode) -> None:
        """Raises for what can't be asked for here, as the real encode server does."""
        if opening.fingerprint != self.info.fingerprint:
            raise ModelMismatchError("the encode server holds another model than the request is for")
        for name, value in (("key", opening.key), ("media_digest", opening.media_digest)):
            if len(value) != 32:
                raise InvalidRequestError(f"{name} has {len(value)} bytes, not 32")
        if opening.kind not in (common_pb2.IMAGE, common_pb2.VIDEO, common_pb2.FRAMES):
            raise InvalidRequestError(f"no such kind of media: {opening.kind}")
        if len(UnknownFieldSet(opening.options)):
            raise InvalidRequestError("the media options have one that this version does not know")
        if not opening.sizes or (len(opening.sizes) > 1 and opening.kind != common_pb2.FRAMES):
            raise InvalidRequestError(f"{len(opening.sizes)} parts for one item")
        if (size := sum(opening.sizes)) > self._config.max_item_bytes:
            limit = self._config.max_item_bytes
            raise BadMediaError(f"the media have {size} bytes, over the limit of {limit} for one item")
        if not (opening.deadline_seconds >= 0 and math.isfinite(opening.deadline_seconds)):
            raise InvalidRequestError(f"a deadline in {opening.deadline_seconds} seconds")


async def serve(config: FakeEncodeConfig) -> int:
    """Runs a fake encode server until SIGTERM; the process's exit status."""
    tracing = tracing_from_environment("epd-encode")
    with Shutdown() as shutdown:
        server = FakeEncodeServer(config, tracing)
        await server.start()
        write_state(config.state_file, "encode", server.addresses)
        log.info("FAKE: serving made-up embeddings, gRPC at %s", server.addresses["grpc"])
        await shutdown.wait()
        started = time.monotonic()
        await server.stop(config.drain_seconds)
        log.info("drained in %.1f s", time.monotonic() - started)
    await asyncio.to_thread(tracing.close)
    return 0


def _model_info(model_dir: Path, dtype: str) -> common_pb2.ModelInfo:
    config = load_config(model_dir)
    if config.vision is None:
        raise ValueError(f"{config.architecture} has no vision tower: it needs no encode server")
    return common_pb2.ModelInfo(
        fingerprint=model_fingerprint(model_dir),
        architecture=config.architecture,
        hidden=config.vision.out_hidden_size,
        levels=config.vision.levels,
        dtype=embedding_dtype(dtype, config.dtype),
        protocol=rpc.PROTOCOL_VERSION,
        merge_size=config.vision.merge_size,
        vision=True,
        processor_version=PROCESSOR_VERSION,
        fake=True,
    )
