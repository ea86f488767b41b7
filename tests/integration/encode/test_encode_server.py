"""The encode server with a real (tiny) vision tower, over the real wire, into a real inbox."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from common import rpc
from common.embeddings import EmbeddingLayout
from common.models.weights import load_vision
from common.pb import common_pb2, encode_pb2_grpc
from common.processing import MediaOptions
from common.processor_config import read_rules
from common.state import read_state
from common.tensors import dtype_to_wire, torch_dtype
from common.transport.grpc import GrpcReceiver
from common.transport.local import LocalHub, LocalReceiver
from common.transport.zmq import ZmqReceiver
from encode_server.config import EncodeConfig
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaProcessor
from encode_server.service import EncodeServer
from tests.checkpoints import write_checkpoint
from tests.encode_client import TIMEOUT, Arrivals, EncodeClient

TRANSPORTS = ("zmq", "grpc", "local")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "moe", "moe")


def picture(seed: int, height: int = 96, width: int = 128) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


ITEMS = {
    "image": (common_pb2.IMAGE, [picture(0)]),
    "small": (common_pb2.IMAGE, [picture(1, 20, 20)]),
    "frames": (common_pb2.FRAMES, [picture(i, 64, 64) for i in range(6)]),
}


def expected(checkpoint: Path, dtype: torch.dtype, kind: common_pb2.MediaKind, parts: list[bytes]) -> torch.Tensor:
    """What the tower and `separate_deepstack_embeds` make of an item alone: `[1 + levels, rows, hidden]`."""
    model = load_vision(checkpoint, dtype=dtype)
    processor = MediaProcessor(rules=read_rules(checkpoint), limits=MediaLimits())
    plan = processor.plan(kind, parts, MediaOptions())
    with torch.inference_mode():
        grid = torch.tensor([[plan.grid.t, plan.grid.h, plan.grid.w]])
        merged = model.visual(processor.patches(plan, parts).to(dtype), grid)
        main, deepstack = model.separate_deepstack_embeds(merged)
    return torch.stack([main, *deepstack.split(main.shape[1], dim=1)])


class Rig:
    """A started encode server and an inbox that it can reach over one transport."""

    def __init__(self, server: EncodeServer, arrivals: Arrivals) -> None:
        self.server = server
        self.arrivals = arrivals

    def client(self) -> EncodeClient:
        return EncodeClient(self.channel, self.server.info.fingerprint)

    async def encode(self, kind: common_pb2.MediaKind, parts: list[bytes]) -> bytes:
        info = self.server.info
        client = self.client()
        metadata = await client.begin(parts, kind=kind, dtype=info.dtype)
        grant = self.arrivals.grant(
            EmbeddingLayout(rows=metadata.rows, hidden=info.hidden, levels=info.levels, dtype=info.dtype)
        )
        await client.grant(grant)
        await client.half_close()
        await client.event("shipped")
        await client.ended()
        return await self.arrivals.embedding(grant)

    def value(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(checkpoint: Path, transport: str = "zmq", **options: object) -> AsyncIterator[Rig]:
    """Only the named transport's receiver exists, so that nothing else can have carried a byte."""
    defaults = {
        "model": str(checkpoint),
        "listen": "127.0.0.1:0",
        "metrics_listen": None,
        "device": "cpu",
        "dtype": "float32",
        "encode_cache_bytes": 4 << 20,
        "transport": "auto" if transport == "local" else transport,
    }
    config = EncodeConfig(**(defaults | options))  # type: ignore[arg-type]
    arrivals, hub, front = Arrivals(), LocalHub(), rpc.server()
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = EncodeServer(config, on_failure=failure, hub=hub if transport == "local" else None)
    receiver: ZmqReceiver | GrpcReceiver | LocalReceiver
    if transport == "zmq":
        receiver = ZmqReceiver(sink=arrivals.inbox, listen="127.0.0.1:0")
    elif transport == "grpc":
        receiver = GrpcReceiver(sink=arrivals.inbox, server=front)
        receiver.advertise(f"127.0.0.1:{rpc.add_port(front, '127.0.0.1:0')}")
        await front.start()
    else:
        receiver = LocalReceiver(sink=arrivals.inbox, hub=hub)
    await receiver.start()
    arrivals.endpoints.append(receiver.endpoint)
    await server.start()
    rig = Rig(server, arrivals)
    try:
        async with rpc.channel(server.addresses["grpc"]) as rig.channel:
            yield rig
    finally:
        await server.stop(0.0)
        await receiver.stop()
        await front.stop(grace=None)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("levels", ["eager", "whole"])
async def test_what_arrives_is_what_the_tower_makes(checkpoint: Path, transport: str, levels: str) -> None:
    async with serving(checkpoint, transport, ship_levels=levels) as rig:
        arrived = await asyncio.gather(*(rig.encode(kind, parts) for kind, parts in ITEMS.values()))
        for (kind, parts), data in zip(ITEMS.values(), arrived, strict=True):
            reference = expected(checkpoint, torch.float32, kind, parts)
            ours = torch.frombuffer(bytearray(data), dtype=torch.float32).view(reference.shape)
            # they may have shared a batch, which moves sums in their last bits
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
        total = sum(map(len, arrived))
        assert rig.value("epd_transfer_bytes_total", transport=transport) == total
        assert rig.arrivals.received(transport) == total
        assert all(rig.arrivals.received(other) == 0 for other in TRANSPORTS if other != transport)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_alone_it_is_the_same_to_the_bit(checkpoint: Path, dtype: str) -> None:
    async with serving(checkpoint, dtype=dtype) as rig:
        assert rig.server.info.dtype == dtype_to_wire(torch_dtype(dtype))
        for kind, parts in ITEMS.values():
            reference = expected(checkpoint, torch_dtype(dtype), kind, parts)
            assert await rig.encode(kind, parts) == reference.contiguous().view(torch.uint8).numpy().tobytes()


async def test_a_video_over_the_batch_budget_is_cut_without_a_seam(checkpoint: Path) -> None:
    kind, parts = ITEMS["frames"]
    reference = expected(checkpoint, torch.float32, kind, parts)
    async with serving(checkpoint, max_batch_patches=16) as rig:
        data = await rig.encode(kind, parts)
        ours = torch.frombuffer(bytearray(data), dtype=torch.float32).view(reference.shape)
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
        assert rig.value("epd_encodes_total") == 3


async def test_many_streams_at_once_get_each_their_own(checkpoint: Path) -> None:
    images = [[picture(100 + i, 32 + 32 * (i % 3), 64)] for i in range(24)]
    async with serving(checkpoint, max_batch_patches=256, encode_cache_bytes=256 << 10) as rig:
        together = await asyncio.gather(*(rig.encode(common_pb2.IMAGE, parts) for parts in images))
        for parts, data in zip(images, together, strict=True):
            reference = expected(checkpoint, torch.float32, common_pb2.IMAGE, parts)
            ours = torch.frombuffer(bytearray(data), dtype=torch.float32).view(reference.shape)
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
        assert rig.value("epd_encodes_total") < len(images)  # they were batched
        assert rig.value("epd_cache_evictions_total", cache="embeddings") > 0  # and went through a small pool


async def test_bad_media_are_refused_and_disturb_nobody(checkpoint: Path) -> None:
    async with serving(checkpoint) as rig:
        good = asyncio.create_task(rig.encode(*ITEMS["image"]))
        for data in (b"not an image", picture(0)[:200]):
            client = rig.client()
            await client.open([data])
            await client.event("accepted")
            await client.send([data])
            error = await client.error() if data == b"not an image" else None
            if error is None:  # a good header: metadata, then its pixels turn out to be cut off
                await client.event("metadata")
                error = await client.error()
            assert error.code == common_pb2.Error.BAD_MEDIA
        assert await good


async def test_a_checkpoint_without_vision_is_refused_by_name(tmp_path: Path) -> None:
    text = write_checkpoint(tmp_path / "text", "text_moe")
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    config = EncodeConfig(model=str(text), listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    with pytest.raises(ValueError, match="Qwen3MoeForCausalLM has no vision tower"):
        await EncodeServer(config, on_failure=failure).start()


_SERVE = """
import asyncio, sys
from common.config import parse
from common.logs import setup_logging
from encode_server.config import EncodeConfig
from encode_server.service import serve
config = parse(EncodeConfig, "encode", sys.argv[1:], {})
setup_logging("encode", config.log_level, config.log_format)
status = asyncio.run(serve(config))
assert not [name for name in sys.modules if name.partition(".")[0] in ("transformers", "torchvision")]
sys.exit(status)
"""


async def test_as_a_process_it_gets_ready_drains_at_sigterm_and_exits_with_0(checkpoint: Path, tmp_path: Path) -> None:
    state_file = tmp_path / "state.json"
    argv = ["--model", str(checkpoint), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    argv += ["--device", "cpu", "--encode-cache-bytes", "4MiB", "--state-file", str(state_file)]
    with subprocess.Popen([sys.executable, "-c", _SERVE, *argv], stderr=subprocess.PIPE) as process:  # noqa: ASYNC220
        try:
            async with asyncio.timeout(TIMEOUT):
                while not (states := read_state(state_file)):
                    assert process.poll() is None
                    await asyncio.sleep(0.02)
            (state,) = states
            assert (state.role, state.pid) == ("encode", process.pid)
            async with rpc.channel(state.addresses["grpc"]) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(health_pb2.HealthCheckRequest(service="epd.v1.EncodeService"))
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                info = await encode_pb2_grpc.EncodeServiceStub(channel).GetModelInfo(common_pb2.GetModelInfoRequest())
                held, refused = (EncodeClient(channel, info.fingerprint) for _ in range(2))
                await held.begin([picture(0)])
                process.send_signal(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                await refused.open([picture(1)])
                assert (await refused.error()).code == common_pb2.Error.UNAVAILABLE
                await held.half_close()
                await held.ended()
            assert await asyncio.to_thread(process.wait, TIMEOUT) == 0
        finally:
            process.kill()
            _, errors = process.communicate()
    assert b"Traceback" not in errors, errors.decode()
