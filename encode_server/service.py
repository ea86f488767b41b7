"""The encode server: gRPC in front, the engine behind it, the data plane's senders beside it.

routers ── Encode ──► EncodeStream ──► EncodeEngine ──► tower thread
                           │                │ finished and growing items
                           └──► Shipper ──► Senders ── frames ──► language servers
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

import torch

from common import __version__, rpc
from common.hub import resolve_model
from common.lifecycle import run_server
from common.logs import RateLimitedLog
from common.media_key import PROCESSOR_VERSION
from common.metrics import serve_metrics, split_address, watch_serving
from common.models.config import ModelConfig, UnsupportedModelError, load_config
from common.models.weights import load_vision
from common.pb import common_pb2, embedding_pb2, encode_pb2_grpc
from common.processor_config import read_rules
from common.tensors import dtype_to_wire, resolve_device, torch_dtype
from common.tracing import OFF, Tracing, tracing_from_environment
from common.transport.address import join
from common.transport.local import LocalHub, LocalSender
from common.transport.senders import Senders, network_senders
from encode_server.account import StreamAccount
from encode_server.config import EncodeConfig
from encode_server.encoder import Encoder
from encode_server.engine import EncodeEngine
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaProcessor
from encode_server.metrics import EncodeMetrics
from encode_server.preprocessor import Preprocessor
from encode_server.shipper import Shipper
from encode_server.stream import EncodeStream

if TYPE_CHECKING:
    from encode_server.stream import Context

log = logging.getLogger(__name__)

SERVICE = "epd.v1.EncodeService"


class EncodeService(encode_pb2_grpc.EncodeServiceServicer):
    """gRPC's side of it; see proto/encode.proto.

    Args:
        info: of the model; streams for one with another fingerprint are refused.
        boot_id: of this process.
        max_item_bytes: media bytes of one item.
        tracing: of this process.
    """

    def __init__(
        self,
        engine: EncodeEngine,
        shipper: Shipper,
        metrics: EncodeMetrics,
        *,
        info: common_pb2.ModelInfo,
        boot_id: bytes,
        max_item_bytes: int,
        tracing: Tracing = OFF,
    ) -> None:
        self._engine = engine
        self._shipper = shipper
        self._metrics = metrics
        self._info = info
        self._boot_id = boot_id
        self._max_item_bytes = max_item_bytes
        self._tracing = tracing
        self._faults = RateLimitedLog(log)

    async def Encode(self, _: object, context: Context) -> None:
        span = self._tracing.serve("encode", context.invocation_metadata() or ())
        stream = EncodeStream(
            context,
            self._engine,
            self._shipper,
            StreamAccount(self._metrics, span, self._faults),
            fingerprint=self._info.fingerprint,
            max_item_bytes=self._max_item_bytes,
        )
        await stream.run()

    async def GetModelInfo(self, request: common_pb2.GetModelInfoRequest, context: object) -> common_pb2.ModelInfo:
        return self._info

    async def GetServerInfo(self, request: common_pb2.GetServerInfoRequest, context: object) -> common_pb2.ServerInfo:
        return common_pb2.ServerInfo(version=__version__, boot_id=self._boot_id, load=self._engine.load())


class EncodeServer:
    """One encode server from `start` to `stop`.

    Args:
        config: what the operator decided.
        on_failure: gets the reason if the server can't go on.
        hub: inboxes of this process, for a language server that lives in it too.
        tracing: of this process.
    """

    def __init__(
        self,
        config: EncodeConfig,
        *,
        on_failure: asyncio.Future[str],
        hub: LocalHub | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._on_failure = on_failure
        self._hub = hub
        self.metrics = EncodeMetrics()
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Loads the vision tower, warms it up, binds, and takes requests.

        Raises:
            OSError, ValueError: what can't be loaded or bound, and why.
        """
        async with contextlib.AsyncExitStack() as cleanup:
            await self._start(self._config, cleanup)
            self._cleanup = cleanup.pop_all()

    async def _start(self, config: EncodeConfig, cleanup: contextlib.AsyncExitStack) -> None:
        # Ports first: a taken one should not cost a loaded model.
        self._server = rpc.server()
        port = rpc.add_port(self._server, config.listen)
        self.addresses["grpc"] = join(split_address(config.listen)[0], port)
        if config.metrics_listen is not None:
            port, stop_metrics = serve_metrics(self.metrics.registry, config.metrics_listen)
            cleanup.callback(stop_metrics)
            self.addresses["metrics"] = join(split_address(config.metrics_listen)[0], port)
        await asyncio.to_thread(self._load)
        self.engine = EncodeEngine(
            self._encoder,
            Preprocessor(self._processor, threads=config.workers),
            self.metrics,
            cache_bytes=config.cache_bytes,
            max_batch_patches=config.batch_patches(self._device.type),
            max_waiting_items=config.max_waiting_items,
            max_waiting_bytes=config.max_waiting_bytes,
        )
        await self.engine.start()
        cleanup.push_async_callback(self.engine.stop)
        senders = _senders(config, self._hub)
        cleanup.push_async_callback(senders.close)
        service = EncodeService(
            self.engine,
            Shipper(self.engine, senders, self.metrics, levels=config.ship_levels),
            self.metrics,
            info=self.info,
            boot_id=secrets.token_bytes(16),
            max_item_bytes=config.max_item_bytes,
            tracing=self._tracing,
        )
        encode_pb2_grpc.add_EncodeServiceServicer_to_server(service, self._server)
        self._health = rpc.HealthReporter(self._server, [SERVICE])
        watch_serving(self.metrics.registry, lambda: self._health.serving)
        await self._server.start()
        cleanup.push_async_callback(self._server.stop, grace=1.0)
        await self._health.set(True)
        self._watch = asyncio.create_task(self._watch_engine())

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new items, hands back those not begun, ships the others for `drain_seconds`, then ends."""
        self._watch.cancel()
        await self._health.set(False)
        await self.engine.drain(drain_seconds)
        await self._cleanup.aclose()

    async def _watch_engine(self) -> None:
        reason = await watch_progress(
            self.engine,
            self._health,
            stall_seconds=self._config.stall_seconds,
            give_up_seconds=self._config.give_up_seconds,
        )
        self._on_failure.set_result(reason)

    def _load(self) -> None:
        """Resolves, checks and loads the checkpoint. Blocks."""
        config = self._config
        files = resolve_model(config.model, config.revision, "vision")
        model_config = load_config(files.directory)
        if model_config.vision is None:
            raise UnsupportedModelError(f"{model_config.architecture} has no vision tower: it needs no encode server")
        dtype = torch_dtype(model_config.dtype if config.dtype == "auto" else config.dtype)
        device = self._device = resolve_device(config.device)
        limits = MediaLimits(max_bytes=config.max_item_bytes)
        self._processor = MediaProcessor(rules=read_rules(files.directory), limits=limits)
        log.info("loading the vision tower of %s in %s on %s", config.model, dtype, device)
        self._encoder = Encoder(
            load_vision(files.directory, dtype=dtype, device=device),
            hidden=model_config.vision.out_hidden_size,
            levels=model_config.vision.levels,
            merge=model_config.vision.merge_size,
            patch_dim=model_config.vision.patch_dim,
            dtype=dtype,
            device=device,
            by_level=config.ship_levels != "whole",
        )
        self.info = _model_info(model_config, files.fingerprint(), dtype)


async def watch_progress(
    engine: EncodeEngine, health: rpc.HealthReporter, *, stall_seconds: float, give_up_seconds: float
) -> str:
    """Health combines liveness with progress: a tower or a decoder that has work and finishes nothing is not serving.

    Returns when there is no hope left, with the reason: the engine is broken, or has not served for long enough.
    """
    serving = True
    while True:
        try:
            await asyncio.wait_for(engine.broken.wait(), min(1.0, stall_seconds / 4))
        except TimeoutError:
            stuck = engine.seconds_without_progress() > stall_seconds
            if stuck == serving:
                serving = not stuck
                log.log(logging.INFO if serving else logging.ERROR, "serving again" if serving else "no progress")
                await health.set(serving)
            if 0 < give_up_seconds < health.seconds_not_serving:
                return f"no progress for {engine.seconds_without_progress():.0f} s"
        else:
            await health.set(False)
            return "the vision tower or its device failed"


async def serve(config: EncodeConfig) -> int:
    """Runs an encode server until SIGTERM, or until its device fails; the process's exit status."""
    tracing = tracing_from_environment("epd-encode")
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = EncodeServer(config, on_failure=failure, tracing=tracing)
    return await run_server("encode", server, failure, config, tracing)


def _senders(config: EncodeConfig, hub: LocalHub | None) -> Senders:
    return (
        Senders({embedding_pb2.LOCAL: LocalSender(hub=hub)}) if hub is not None else network_senders(config.transport)
    )


def _model_info(config: ModelConfig, fingerprint: bytes, dtype: torch.dtype) -> common_pb2.ModelInfo:
    assert config.vision is not None
    return common_pb2.ModelInfo(
        fingerprint=fingerprint,
        architecture=config.architecture,
        hidden=config.vision.out_hidden_size,
        levels=config.vision.levels,
        dtype=dtype_to_wire(dtype),
        protocol=rpc.PROTOCOL_VERSION,
        merge_size=config.vision.merge_size,
        vision=True,
        processor_version=PROCESSOR_VERSION,
    )
