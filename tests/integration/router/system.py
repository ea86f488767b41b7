"""A router on a real port, over peers that the test holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
from tokenizers import Tokenizer

from common.pb import embedding_pb2
from router.app import make_server
from router.config import RouterConfig
from router.listening import listen
from router.services import Services, make_services
from tests.integration.router.peers import EOS, MODEL_DIR, EncodePeer, LanguagePeer, Peer, Script, running

CONFIG = RouterConfig(
    served_model_name=("demo", "other-name"),
    health_interval_seconds=0.05,
    resolve_interval_seconds=0.5,
    failover_seconds=2.0,
    media_timeout_seconds=2.0,
    media_connect_seconds=1.0,
)
TOKENIZER = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


def ids_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


def says(text: str) -> Script:
    """Answers `text` and ends its turn."""
    tokens = [*ids_of(text), EOS]
    return lambda generate: tokens


class Router:
    """A running one."""

    def __init__(self, services: Services, port: int, client: httpx.AsyncClient) -> None:
        self.services = services
        self.port = port
        self.client = client

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def chat(self, content: Any, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body_of(content, **fields))

    def metric(self, name: str, **labels: str) -> float:
        return self.services.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what no event tells: a counter of the router. Fails after five seconds."""
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)


def body_of(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}


@contextlib.asynccontextmanager
async def routing(config: RouterConfig, *, until: str | None = "image") -> AsyncIterator[Router]:
    listener = listen("127.0.0.1", 0)
    async with make_services(config) as services:
        server = make_server(services)
        server.config.timeout_graceful_shutdown = 1
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client:
                router = Router(services, port, client)
                if until is not None:
                    await router.until(lambda: getattr(services.fleet.readiness(), until))
                yield router
        finally:
            server.should_exit = True
            await serving
            listener.close()


@contextlib.asynccontextmanager
async def system(
    script: Script,
    *,
    languages: int = 1,
    encoders: int = 1,
    config: RouterConfig = CONFIG,
) -> AsyncIterator[tuple[Router, list[LanguagePeer], list[EncodePeer]]]:
    """A router and its peers, all ready."""
    language_peers = [LanguagePeer(script) for _ in range(languages)]

    async def ship(grant: embedding_pb2.Grant) -> bool:
        return any([await peer.deliver(grant) for peer in language_peers])

    encode_peers = [EncodePeer(ship) for _ in range(encoders)]
    peers: Sequence[Peer] = [*language_peers, *encode_peers]
    async with running(*peers):
        config = replace(
            config,
            language=tuple(peer.address for peer in language_peers),
            encode=tuple(peer.address for peer in encode_peers),
        )
        async with routing(config) as router:
            fleet = router.services.fleet
            await router.until(
                lambda: len(fleet.language.ready()) == languages and len(fleet.encode.ready()) == encoders
            )
            yield router, language_peers, encode_peers


def events_of(text: str) -> list[Any]:
    """The data of server-sent events: parsed JSON, or "[DONE]"."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [entry if entry == "[DONE]" else json.loads(entry) for entry in data]
