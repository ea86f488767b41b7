from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from encode_server.fake import FakeEncodeConfig, FakeEncodeServer
from language_server.fake import FakeLanguageConfig, FakeLanguageServer

MODEL = Path(__file__).parents[3] / "deploy" / "demo" / "model"

EncodeServers = Callable[..., AbstractAsyncContextManager[FakeEncodeServer]]
LanguageServers = Callable[..., AbstractAsyncContextManager[FakeLanguageServer]]


@pytest.fixture
def encode_server() -> EncodeServers:
    """A fake encode server on free ports: `async with encode_server(delay=1.0) as server`."""

    @asynccontextmanager
    async def start(**options: object) -> AsyncIterator[FakeEncodeServer]:
        places = {"listen": "127.0.0.1:0", "metrics_listen": None}
        server = FakeEncodeServer(FakeEncodeConfig(model=MODEL, **{**places, **options}))
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0.0)

    return start


@pytest.fixture
def language_server() -> LanguageServers:
    """A fake language server on free ports."""

    @asynccontextmanager
    async def start(**options: object) -> AsyncIterator[FakeLanguageServer]:
        places = {"listen": "127.0.0.1:0", "data_listen": "127.0.0.1:0", "metrics_listen": None}
        options = {"rate": 0.0, **options}
        server = FakeLanguageServer(FakeLanguageConfig(model=MODEL, **{**places, **options}))
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0.0)

    return start
