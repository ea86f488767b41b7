"""`GET /servers`, and requests that are sent through servers of the client's choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from common.errors import EPDError, InternalError, MovedError, OverloadedError, UnavailableError
from common.pb import common_pb2
from tests.integration.router.peers import FINGERPRINT, INFO, EncodePeer, LanguagePeer, running
from tests.integration.router.system import CONFIG, Router, body_of, routing, says, system
from tests.integration.router.test_media import image, text

System = tuple[Router, list[LanguagePeer], list[EncodePeer]]


@pytest.fixture
async def two_of_each() -> AsyncIterator[System]:
    async with system(says("ok"), languages=2, encoders=2) as running_system:
        yield running_system


async def ask(
    router: Router,
    content: Any,
    *,
    encode: EncodePeer | str | None = None,
    language: LanguagePeer | str | None = None,
    **fields: Any,
) -> httpx.Response:
    headers = {
        name: peer if isinstance(peer, str) else peer.address
        for name, peer in (("X-EPD-Encode", encode), ("X-EPD-Language", language))
        if peer is not None
    }
    return await router.client.post("/v1/chat/completions", json=body_of(content, **fields), headers=headers)


async def servers_of(router: Router) -> dict[str, dict[str, Any]]:
    """What `/servers` says, by address."""
    listed = (await router.client.get("/servers")).json()["servers"]
    return {server["address"]: server for server in listed}


async def test_every_pair_can_be_chosen(two_of_each: System) -> None:
    router, languages, encoders = two_of_each
    chosen = [(encode, language) for encode in encoders for language in languages] * 2
    for number, (encode, language) in enumerate(chosen):
        before = [len(peer.uploads) for peer in encoders], [len(peer.served) for peer in languages]
        response = await ask(router, [image(b"picture %d" % number)], encode=encode, language=language)
        assert response.status_code == 200, response.text
        after = [len(peer.uploads) for peer in encoders], [len(peer.served) for peer in languages]
        assert after[0] == [count + (peer is encode) for count, peer in zip(before[0], encoders, strict=True)]
        assert after[1] == [count + (peer is language) for count, peer in zip(before[1], languages, strict=True)]


async def test_one_of_the_two_may_be_left_to_the_router(two_of_each: System) -> None:
    router, languages, encoders = two_of_each
    for number in range(6):
        content = [image(b"picture %d" % number), text(f"{number}")]
        assert (await ask(router, content, encode=encoders[1])).status_code == 200
        assert (await ask(router, f"{number}", language=languages[1])).status_code == 200
    assert not encoders[0].opened
    assert len(encoders[1].opened) == 6
    assert len(languages[1].served) >= 6


@pytest.mark.parametrize("name", ["X-EPD-Encode", "X-EPD-Language"])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "somewhere", ""])
async def test_no_such_server(two_of_each: System, name: str, address: str) -> None:
    router, languages, _ = two_of_each
    response = await router.client.post("/v1/chat/completions", json=body_of("hi"), headers={name: address})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == name
    assert name in error["message"]
    assert repr(address) in error["message"]
    assert not any(peer.served for peer in languages)


async def test_a_server_of_the_other_role_is_none(two_of_each: System) -> None:
    router, (language, _), (encode, _) = two_of_each
    assert (await ask(router, "hi", encode=language.address)).status_code == 400
    assert (await ask(router, "hi", language=encode.address)).status_code == 400


async def test_a_field_that_comes_twice_names_no_server(two_of_each: System) -> None:
    router, languages, _ = two_of_each
    headers = [("X-EPD-Language", peer.address) for peer in languages]
    response = await router.client.post("/v1/chat/completions", json=body_of("hi"), headers=headers)
    assert response.status_code == 400


async def test_a_pin_of_messages_has_its_error_in_their_shape(two_of_each: System) -> None:
    router, _, _ = two_of_each
    body = {**body_of("hi"), "max_tokens": 5}
    response = await router.client.post("/v1/messages", json=body, headers={"x-epd-language": "127.0.0.1:1"})
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert "X-EPD-Language" in response.json()["error"]["message"]


async def test_a_pinned_server_that_is_gone(two_of_each: System) -> None:
    router, (language, _), (encode, _) = two_of_each
    fleet = router.services.fleet
    await asyncio.gather(language.kill(), encode.kill())
    await router.until(lambda: len(fleet.language.ready()) == 1 and len(fleet.encode.ready()) == 1)
    for name, response in (
        ("X-EPD-Encode", await ask(router, "hi", encode=encode)),
        ("X-EPD-Language", await ask(router, "hi", language=language)),
    ):
        assert response.status_code == 503
        assert response.json()["error"]["param"] == name
    assert (await ask(router, [image(b"others go on")])).status_code == 200


async def test_a_server_that_drains_is_not_ready(two_of_each: System) -> None:
    router, (language, _), _ = two_of_each
    language.load.draining = True
    await router.until(lambda: len(router.services.fleet.language.ready()) == 1)
    response = await ask(router, "hi", language=language)
    assert response.status_code == 503
    assert "is shutting down" in response.json()["error"]["message"]
    shown = (await servers_of(router))[language.address]
    assert (shown["ready"], shown["load"]["draining"]) == (False, True)
    assert "is shutting down" in shown["trouble"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InternalError("the tower fell"), 500),
        (UnavailableError("the tower is closed"), 503),
        (OverloadedError("the tower is full"), 429),
    ],
)
async def test_a_pinned_encode_server_has_no_stand_in(two_of_each: System, error: EPDError, status: int) -> None:
    """The answer says what the server said, and nobody else is asked."""
    router, (language, _), (bad, good) = two_of_each
    bad.refusal = error
    response = await ask(router, [image(b"cat")], encode=bad, language=language)
    assert response.status_code == status, response.text
    shown = response.json()["error"]
    assert shown["param"] == "messages[0].content[0]"
    assert f"encode server {bad.address}: " in shown["message"]
    assert error.message in shown["message"]
    assert len(bad.opened) == 1
    assert not good.opened
    assert router.metric("epd_retries_total", what="encode") == 0


async def test_a_pinned_pair_without_a_way_between_them(two_of_each: System) -> None:
    router, (language, _), (bad, good) = two_of_each

    async def unreachable(grant: object) -> bool:
        return False

    bad.ship, bad.ship_fails_revoked = unreachable, False
    response = await asyncio.wait_for(ask(router, [image(b"cat")], encode=bad, language=language), 5)
    assert response.status_code == 503
    assert "can't reach the language server" in response.json()["error"]["message"]
    assert not good.opened


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OverloadedError("the queue is full"), 429),
        (UnavailableError("the engine is gone"), 503),
        (MovedError("it drains"), 503),
    ],
)
async def test_a_pinned_language_server_has_no_stand_in(two_of_each: System, error: EPDError, status: int) -> None:
    router, (bad, good), _ = two_of_each
    bad.refusal = error
    response = await asyncio.wait_for(ask(router, "hi", language=bad), 5)
    assert response.status_code == status, response.text
    assert error.message in response.json()["error"]["message"]
    assert len(bad.served) == 1
    assert not good.served


async def test_the_death_of_a_pinned_language_server_ends_the_request(two_of_each: System) -> None:
    router, (dying, other), _ = two_of_each
    dying.pace = asyncio.Semaphore(0)
    asking = asyncio.create_task(ask(router, "hi", language=dying))
    await dying.request()
    await dying.kill()
    response = await asyncio.wait_for(asking, 5)
    assert response.status_code == 503, response.text
    assert not other.served
    assert router.metric("epd_migrations_total", cause="death") == 0


async def test_servers_are_listed_with_what_is_known_of_them() -> None:
    stranger = EncodePeer(ship=lambda grant: asyncio.sleep(0, result=True), info=_info(fingerprint=b"\x08" * 32))
    older = EncodePeer(ship=lambda grant: asyncio.sleep(0, result=True), info=_info(processor_version=0))
    language = LanguagePeer(says("ok"))
    encode = EncodePeer(language.deliver)
    language.load = common_pb2.Load(queue_seconds=1.5, running=3, waiting=2)
    async with running(stranger, older, language, encode):
        config = replace(
            CONFIG,
            language=(language.address, "127.0.0.1:1"),
            encode=(encode.address, stranger.address, older.address, "no-such-host.invalid:9001"),
        )
        async with routing(config) as router:
            await router.until(
                lambda: (
                    len(router.services.fleet.encode.ready()) == 2
                    and "model" in router.services.fleet.encode.servers[stranger.address].trouble
                )
            )
            shown = await servers_of(router)
    assert len(shown) == 6
    assert shown[language.address] == {
        "role": "language",
        "address": language.address,
        "ready": True,
        "trouble": None,
        "version": "test",
        "load": {"queue_seconds": 1.5, "running": 3, "waiting": 2, "draining": False},
        "model": {
            "architecture": "Qwen3VLMoeForConditionalGeneration",
            "fingerprint": FINGERPRINT.hex(),
            "dtype": "bfloat16",
            "max_model_len": 4096,
            "max_item_rows": 512,
            "processor_version": 1,
            "vision": True,
            "fake": False,
        },
    }
    assert (shown[encode.address]["role"], shown[encode.address]["ready"]) == ("encode", True)
    troubles = {address: server["trouble"] for address, server in shown.items() if not server["ready"]}
    assert "holds another model" in troubles.pop(stranger.address)
    assert "version 0 of media processing" in troubles.pop(older.address)
    assert "can't be resolved" in troubles.pop("no-such-host.invalid:9001")
    assert "language server 127.0.0.1:1" in troubles.pop("127.0.0.1:1")
    assert not troubles


async def test_the_list_and_the_pins_need_a_key() -> None:
    async with routing(replace(CONFIG, api_key=("secret",)), until=None) as router:
        assert (await router.client.get("/servers")).status_code == 401
        allowed = await router.client.get("/servers", headers={"authorization": "Bearer secret"})
        assert (allowed.status_code, list(allowed.json())) == (200, ["servers"])
        refused = await ask(router, "hi", encode="127.0.0.1:1")
        assert refused.status_code == 401, "who has no key is told nothing about servers"


def _info(**facts: Any) -> common_pb2.ModelInfo:
    info = common_pb2.ModelInfo()
    info.CopyFrom(INFO)
    for name, fact in facts.items():
        setattr(info, name, fact)
    return info
