"""A real language server, its engine in a process of its own, over real sockets; the reference says what is right."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import torch

from common import rpc
from common.embeddings import EmbeddingLayout
from common.errors import EPDError
from common.pb import common_pb2, embedding_pb2, language_pb2_grpc
from common.pb import language_pb2 as pb
from common.transport.senders import network_senders
from language_server import engine_client
from language_server.config import LanguageConfig
from language_server.service import LanguageServer
from tests.checkpoints import write_checkpoint
from tests.oracle import MIN_MARGIN, Oracle
from tests.prompts import Prompt, mixed_prompts

TOKENS = 24


class FinishedItem:
    """An embedding that is complete, for a sender."""

    def __init__(self, tensor: torch.Tensor) -> None:
        levels, rows, hidden = tensor.shape
        self.layout = EmbeddingLayout(rows=rows, hidden=hidden, levels=levels - 1, dtype=common_pb2.FLOAT32)
        self.order = self.layout.tensors
        self.data = memoryview(tensor.contiguous().numpy()).cast("B")

    async def wait(self, tensor: str) -> None:
        return


class Router:
    """One session, driven by hand."""

    def __init__(self, call: Any, fingerprint: bytes) -> None:
        self.call = call
        self.fingerprint = fingerprint
        self.handles = 0
        self.events: dict[int, asyncio.Queue[Any]] = {}

    async def submit(
        self, prompt: Prompt, *, tokens: int = TOKENS, fingerprint: bytes | None = None, deadline: float = 0.0
    ) -> int:
        self.handles += 1
        self.events[self.handles] = asyncio.Queue()
        generate = pb.Generate(
            handle=self.handles,
            fingerprint=self.fingerprint if fingerprint is None else fingerprint,
            prompt_ids=prompt.ids,
            spans=prompt.spans,
            sampling=pb.SamplingParams(max_tokens=tokens, ignore_eos=True),
            deadline_seconds=deadline,
        )
        await self.call.write(pb.SessionCommand(generate=generate))
        return self.handles

    async def read(self) -> None:
        async for events in self.call:
            for name in ("admitted", "needs", "received", "outputs", "finished"):
                for event in getattr(events, name):
                    self.events[event.handle].put_nowait(event)

    async def next(self, handle: int, kind: type) -> Any:
        """The request's next event, which has to be of `kind`."""
        event = await asyncio.wait_for(self.events[handle].get(), 30)
        assert isinstance(event, kind), event
        return event

    async def finish(self, handle: int) -> tuple[list[int], pb.Finished]:
        tokens: list[int] = []
        while not isinstance(event := await asyncio.wait_for(self.events[handle].get(), 60), pb.Finished):
            if isinstance(event, pb.StepOutput):
                tokens += event.token_ids
        return tokens, event


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    torch.set_num_threads(1)
    model_dir = write_checkpoint(tmp_path_factory.mktemp("model") / "moe", "moe")
    return Oracle(model_dir)


@asynccontextmanager
async def serving(model_dir: Path, **options: object) -> AsyncIterator[tuple[LanguageServer, Router]]:
    config = LanguageConfig(
        model=str(model_dir),
        listen="127.0.0.1:0",
        data_listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        dtype="float32",
        kv_cache_bytes=4 << 20,
        inbox_bytes=1 << 20,
        log_level="warning",
        **options,
    )
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = LanguageServer(config, on_failure=failure)
    await server.start()
    channel = rpc.channel(server.addresses["grpc"])
    try:
        stub = language_pb2_grpc.LanguageServiceStub(channel)
        info = await stub.GetModelInfo(common_pb2.GetModelInfoRequest())
        router = Router(stub.Session(), info.fingerprint)
        reader = asyncio.create_task(router.read())
        yield server, router
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    finally:
        await channel.close()
        await server.stop(0.0)


async def metric(server: LanguageServer, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://{server.addresses['metrics']}/metrics")).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
async def test_images_arrive_over_the_wire_and_tokens_are_the_references(oracle: Oracle, transport: str) -> None:
    prompt = mixed_prompts(oracle.config)["three images"]
    answer = oracle.greedy(prompt.ids, prompt.items, tokens=TOKENS)
    assert answer.margin > MIN_MARGIN
    embeddings = dict(zip(prompt.keys, map(oracle.embed, prompt.items), strict=True))
    senders = network_senders(transport)
    async with serving(oracle.model_dir) as (server, router):
        handle = await router.submit(prompt)
        admitted = await router.next(handle, pb.Admitted)
        assert list(admitted.needed_keys) == prompt.keys
        for _ in prompt.keys:
            need = await router.next(handle, pb.Need)
            delivery = await senders.ship(need.grant, FinishedItem(embeddings[need.key]))
            assert embedding_pb2.Transport.Name(delivery.transport).lower() == transport
        tokens, finished = await router.finish(handle)
        assert tokens == answer.tokens
        assert finished.reason == pb.Finished.LENGTH
        total = sum(tensor.nbytes for tensor in embeddings.values())
        assert await metric(server, f'epd_transfer_bytes_total{{transport="{transport}"}}') == total
    await senders.close()


async def test_a_request_for_another_model_is_refused(oracle: Oracle) -> None:
    async with serving(oracle.model_dir) as (_, router):
        handle = await router.submit(mixed_prompts(oracle.config)["text only"], fingerprint=b"x" * 32)
        _, finished = await router.finish(handle)
        assert finished.error.code == common_pb2.Error.MODEL_MISMATCH


async def test_a_router_that_leaves_frees_what_its_requests_held(oracle: Oracle) -> None:
    async with serving(oracle.model_dir, prefix_caching=False) as (server, router):
        handle = await router.submit(mixed_prompts(oracle.config)["one image"], tokens=1000)
        await router.next(handle, pb.Admitted)
        await router.next(handle, pb.Need)
        assert await metric(server, "epd_inbox_bytes") > 0
        router.call.cancel()
        await asyncio.wait_for(server.sessions.wait_idle(), 10)
        async with asyncio.timeout(10):
            while await metric(server, "epd_inbox_bytes") or await metric(server, "epd_kv_blocks_used"):
                await asyncio.sleep(0.01)


async def test_draining_moves_what_does_not_finish(oracle: Oracle) -> None:
    async with serving(oracle.model_dir) as (server, router):
        handle = await router.submit(mixed_prompts(oracle.config)["one image"], tokens=100)
        await router.next(handle, pb.Admitted)
        await router.next(handle, pb.Need)
        stopping = asyncio.create_task(server.stop(0.2))
        _, finished = await router.finish(handle)
        assert finished.error.code == common_pb2.Error.MOVED
        await stopping


async def test_a_dead_engine_ends_every_stream(oracle: Oracle) -> None:
    async with serving(oracle.model_dir) as (server, router):
        handle = await router.submit(mixed_prompts(oracle.config)["one image"])
        await router.next(handle, pb.Admitted)
        server._engine._process.kill()
        _, finished = await router.finish(handle)
        assert finished.error.code == common_pb2.Error.UNAVAILABLE


async def test_an_engine_that_hangs_is_not_serving_and_then_a_failure(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_STOP_SECONDS", 0.5)
    async with serving(oracle.model_dir, stall_seconds=0.3, give_up_seconds=0.3) as (server, router):
        assert await metric(server, "epd_serving") == 1
        engine = server._engine._process
        engine.send_signal(signal.SIGSTOP)
        handle = await router.submit(mixed_prompts(oracle.config)["text only"])
        reason = await asyncio.wait_for(server._on_failure, 20)
        assert reason.startswith("not serving for")
        assert await metric(server, "epd_serving") == 0
        await server.stop(0.0)  # as the process does it then
        assert engine.poll() == -signal.SIGKILL
        _, finished = await router.finish(handle)
        assert finished.error.code == common_pb2.Error.MOVED


async def test_a_router_that_breaks_the_protocol_loses_its_session_only(oracle: Oracle) -> None:
    async with serving(oracle.model_dir) as (server, router):
        first = await router.submit(mixed_prompts(oracle.config)["one image"])
        await router.next(first, pb.Admitted)
        router.handles -= 1
        await router.submit(mixed_prompts(oracle.config)["one image"])
        assert await router.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await asyncio.wait_for(server.sessions.wait_idle(), 10)


async def test_a_far_deadline_is_no_trouble(oracle: Oracle) -> None:
    async with serving(oracle.model_dir) as (_, router):
        image = await router.submit(mixed_prompts(oracle.config)["one image"], deadline=1e9)
        await router.next(image, pb.Admitted)
        await router.next(image, pb.Need)
        text = await router.submit(mixed_prompts(oracle.config)["text only"])
        _, finished = await router.finish(text)
        assert finished.reason == pb.Finished.LENGTH


async def test_a_checkpoint_that_cannot_be_served_is_refused_at_start(oracle: Oracle, tmp_path: Path) -> None:
    config = (oracle.model_dir / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("Qwen3VLMoeForConditionalGeneration", "LlamaForCausalLM"))
    with pytest.raises(EPDError, match="LlamaForCausalLM"):
        async with serving(tmp_path):
            pass
