"""The fakes as processes of their own, on a machine that has neither torch nor any decoder."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common import rpc
from common.pb import common_pb2, encode_pb2_grpc, language_pb2_grpc
from common.state import read_state
from tests.integration.fakes.conftest import MODEL

ROOT = Path(__file__).parents[3]

# Importing any of these fails, as it does where only the base package is installed.
PROGRAM = """
import asyncio, sys
for name in ("torch", "numpy", "PIL", "av", "transformers", "safetensors", "huggingface_hub", "opentelemetry"):
    sys.modules[name] = None
from common.config import parse
from {package}.fake import {config}, serve
sys.exit(asyncio.run(serve(parse({config}, "{role}", sys.argv[1:]))))
"""
PROGRAMS = {
    "encode": PROGRAM.format(package="encode_server", config="FakeEncodeConfig", role="encode"),
    "language": PROGRAM.format(package="language_server", config="FakeLanguageConfig", role="language"),
}
SERVICES = {"encode": "epd.v1.EncodeService", "language": "epd.v1.LanguageService"}


@asynccontextmanager
async def running(role: str, state_file: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    places = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    places += ["--data-listen", "127.0.0.1:0"] if role == "language" else []
    command = [sys.executable, "-c", PROGRAMS[role], "--model", str(MODEL), "--state-file", str(state_file)]
    process = await asyncio.create_subprocess_exec(
        *command, *places, *options, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def addresses(state_file: Path) -> dict[str, str]:
    async with asyncio.timeout(30):
        while not (processes := read_state(state_file)):
            await asyncio.sleep(0.02)
    return dict(processes[0].addresses)


@pytest.mark.parametrize("role", ["encode", "language"])
async def test_a_fake_serves_all_that_a_real_one_does_and_ends_well(role: str, tmp_path: Path) -> None:
    state_file = tmp_path / "state.json"
    async with running(role, state_file) as process:
        at = await addresses(state_file)
        async with rpc.channel(at["grpc"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICES[role]):
                request = health_pb2.HealthCheckRequest(service=service)
                answer = await health.Check(request, wait_for_ready=True)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert SERVICES[role] in await reflected(channel)
            stub = (
                encode_pb2_grpc.EncodeServiceStub(channel)
                if role == "encode"
                else language_pb2_grpc.LanguageServiceStub(channel)
            )
            assert (await stub.GetModelInfo(common_pb2.GetModelInfoRequest())).fake
            info = await stub.GetServerInfo(common_pb2.GetServerInfoRequest())
            assert (len(info.boot_id), info.load.draining) == (16, False)
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"http://{at['metrics']}/metrics")).text
        assert "epd_frames_rejected_total" in metrics or role == "encode"
        assert "epd_requests_accepted_total" in metrics
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def reflected(channel: grpc.aio.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    return [service.name for service in answer.list_services_response.service]


@pytest.mark.parametrize("role", ["encode", "language"])
async def test_a_taken_port_is_a_clear_error(role: str, tmp_path: Path) -> None:
    async with running(role, tmp_path / "first.json"):
        taken = (await addresses(tmp_path / "first.json"))["grpc"]
        async with running(role, tmp_path / "second.json", "--listen", taken) as second:
            _, stderr = await asyncio.wait_for(second.communicate(), 30)
            assert second.returncode != 0
            assert f"can't listen on {taken}" in stderr.decode()
