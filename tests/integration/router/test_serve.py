"""The router as a process: its state file, and an end that drops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from common.state import read_state
from router.app import serve
from router.config import RouterConfig
from tests.integration.router.peers import EncodePeer, LanguagePeer, running
from tests.integration.router.system import CONFIG, body_of, events_of, says


def config_for(language: LanguagePeer, encode: EncodePeer, folder: Path) -> RouterConfig:
    return replace(
        CONFIG,
        port=0,
        language=(language.address,),
        encode=(encode.address,),
        state_file=folder / "state.json",
        drain_seconds=5.0,
    )


@contextlib.asynccontextmanager
async def started(config: RouterConfig) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the router, once that is ready."""
    assert config.state_file is not None
    async with asyncio.timeout(10):
        while not (states := read_state(config.state_file)):
            await asyncio.sleep(0.01)
        (state,) = states
        assert (state.role, state.pid) == ("router", os.getpid())
    async with httpx.AsyncClient(base_url=f"http://{state.addresses['http']}", timeout=10.0) as client:
        async with asyncio.timeout(10):
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        yield client


async def test_sigterm_lets_requests_finish(tmp_path: Path) -> None:
    language = LanguagePeer(says("one two three"))
    encode = EncodePeer(language.deliver)
    async with running(language, encode):
        language.pace = asyncio.Semaphore(0)
        config = config_for(language, encode, tmp_path)
        serving = asyncio.create_task(serve(config))
        async with started(config) as client:
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body_of("hi", stream=True)))
            await language.request()
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                while (await client.get("/ready")).status_code == 200:
                    await asyncio.sleep(0.01)
            refused = await client.post("/v1/chat/completions", json=body_of("hi"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert refused.headers["connection"] == "close"  # so that the next try reaches another router
            assert not serving.done()
            for _ in range(20):
                language.pace.release()
            answer = await asyncio.wait_for(asking, 5)
            assert events_of(answer.text)[-1] == "[DONE]"
        assert await asyncio.wait_for(serving, 10) == 0


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = replace(CONFIG, port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await serve(config)
