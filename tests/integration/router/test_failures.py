"""Servers that die, drain, refuse and come back, seen from the client: it sees nothing, or one clear error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx

from common.errors import InternalError, OverloadedError, UnavailableError
from common.pb import common_pb2, embedding_pb2
from router.http.application import create_app
from tests.integration.router.peers import FINGERPRINT, INFO, EncodePeer, LanguagePeer, running
from tests.integration.router.system import CONFIG, Router, body_of, events_of, routing, says, system
from tests.integration.router.test_media import image

WORDS = "one two three four five six seven eight nine ten"


async def lines_of(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        for event in events_of(line):
            yield event


def _release(peer: LanguagePeer) -> None:
    assert peer.pace is not None
    peer.pace.release()


class Stream:
    """A chat that is being read."""

    def __init__(self, router: Router, content: Any = "hi", **fields: Any) -> None:
        self._context = router.client.stream(
            "POST", "/v1/chat/completions", json=body_of(content, stream=True, **fields)
        )
        self.text = ""
        self.events: list[Any] = []

    async def __aenter__(self) -> Stream:
        self.response = await self._context.__aenter__()
        self._lines = lines_of(self.response)
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._context.__aexit__(*args)  # type: ignore[arg-type]

    async def read(self, until: str | None = None) -> None:
        """Up to `until` in the text, or to the end."""
        async with asyncio.timeout(10):
            async for event in self._lines:
                self.events.append(event)
                if event != "[DONE]" and "error" not in event:
                    for choice in event["choices"]:
                        self.text += choice["delta"].get("content", "")
                if until is not None and until in self.text:
                    return


async def test_a_language_server_dies_in_the_middle_of_a_stream() -> None:
    async with system(says(WORDS), languages=2) as (router, languages, _):
        for peer in languages:
            peer.pace = asyncio.Semaphore(0)
        async with Stream(router) as stream:
            await router.until(lambda: any(peer.served for peer in languages))
            (first,) = [peer for peer in languages if peer.served]
            (second,) = [peer for peer in languages if peer is not first]
            for _ in range(6):
                _release(first)
            await stream.read(until="two")
            await first.kill()
            served = await second.request()
            for _ in range(100):
                _release(second)
            await stream.read()
        assert stream.text == WORDS
        assert stream.events[-1] == "[DONE]"
        assert served.generate.resumed_output_ids
        assert served.generate.sampling == first.served[0].generate.sampling
        assert router.metric("epd_migrations_total", cause="death") == 1


async def test_two_deaths_are_enough() -> None:
    async with system(says(WORDS), languages=3) as (router, languages, _):
        for peer in languages:
            peer.pace = asyncio.Semaphore(2)
        async with Stream(router) as stream:
            for _ in range(2):
                await router.until(lambda: any(peer.served and peer.server is not None for peer in languages))
                (busy,) = [peer for peer in languages if peer.served and peer.server is not None]
                await busy.kill()
            await stream.read()
    assert stream.response.status_code == 200
    error = stream.events[-1]["error"]
    assert error["code"] == "unavailable"
    assert "two language servers" in error["message"]
    assert sum(len(peer.served) for peer in languages) == 2, "the third one was spared"


async def test_a_server_that_drains_hands_over() -> None:
    """MOVED is no death: any number of them leaves the request alive."""
    async with system(says(WORDS), languages=3) as (router, languages, _):
        for peer in languages:
            peer.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            for _ in range(2):
                (busy,) = [p for p in languages if p.served and not p.load.draining]
                busy.move_all()
                await router.until(lambda: any(p.served for p in languages if not p.load.draining))
            (last,) = [peer for peer in languages if not peer.load.draining]
            for _ in range(100):
                _release(last)
            await stream.read()
        assert stream.text == WORDS
        assert router.metric("epd_migrations_total", cause="moved") == 2


async def test_the_only_language_server_comes_back() -> None:
    async with system(says(WORDS)) as (router, (language,), _):
        language.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            await language.kill()
            language.pace = None
            await language.start()
            await stream.read()
        assert stream.text == WORDS


async def test_an_interrupted_request_is_not_forced_on_a_full_server() -> None:
    """It asks again ever more seldom, and no longer than it is told to."""
    config = replace(CONFIG, failover_seconds=1.0)
    async with system(says(WORDS), languages=2, config=config) as (router, languages, _):
        for peer in languages:
            peer.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            (first,) = [peer for peer in languages if peer.served]
            (second,) = [peer for peer in languages if not peer.served]
            second.refusal = OverloadedError("the queue is full")
            await first.kill()
            await stream.read()
        assert stream.events[-1]["error"]["code"] == "unavailable"
        assert 3 <= len(second.served) <= 8


async def test_no_language_server_comes_back() -> None:
    config = replace(CONFIG, failover_seconds=0.2)
    async with system(says(WORDS), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            await language.kill()
            await stream.read()
        assert "gone" in stream.events[-1]["error"]["message"]
        response = await router.chat("hi")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        ready = await router.client.get("/ready?for=text")
        assert (ready.status_code, ready.json()["text"]) == (503, False)
        assert ready.json()["waiting_for"]


async def test_an_overloaded_language_server() -> None:
    async with system(says("ok"), languages=2) as (router, languages, _):
        for peer in languages:
            peer.refusal = OverloadedError("the queue is full")
        response = await router.chat("hi")
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "overloaded"
        assert "retry-after" in response.headers
        assert all(peer.served for peer in languages)
        languages[0].refusal = None
        assert (await router.chat("hi")).status_code == 200


async def test_an_encode_server_dies_with_a_grant() -> None:
    async with system(says("ok"), encoders=2) as (router, (language,), encoders):

        async def die() -> None:
            dying = next(peer for peer in encoders if peer.opened)
            for peer in encoders:
                peer.on_grant = None
            await dying.kill()

        for peer in encoders:
            peer.on_grant = die
        response = await router.chat([image(b"cat")])
        assert response.status_code == 200, response.text
        assert [len(peer.opened) for peer in encoders] == [1, 1]
        (served,) = language.served
        assert [lost.grant_id for lost in language.lost] == [served.grants[0].id], "the old grant is given back"
        assert len(served.grants) == 2
        assert router.metric("epd_retries_total", what="encode") == 1


async def test_the_only_encode_server_is_restarted() -> None:
    """Its death is noticed by who talks to it, long before the next look at its health."""
    config = replace(CONFIG, health_interval_seconds=1.0, failover_seconds=6.0)
    async with system(says("ok"), config=config) as (router, _, (encode,)):
        restarting: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await encode.kill()
            await asyncio.sleep(1.5)  # longer than all attempts at a server that is thought to be there
            await encode.start()

        async def die() -> None:
            encode.on_grant = None
            restarting.append(asyncio.create_task(restart()))
            await asyncio.Event().wait()

        encode.on_grant = die
        response = await router.chat([image(b"cat")])
        assert response.status_code == 200, response.text
        assert len(restarting) == 1
        await restarting[0]


async def test_an_item_whose_size_is_known_waits_for_an_encode_server() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        assert (await router.chat([image(b"cat")])).status_code == 200
        language.held.clear()
        await encode.kill()
        await router.until(lambda: not router.services.fleet.encode.ready())
        asking = asyncio.create_task(router.chat([image(b"cat")]))
        await language.request(2)
        await encode.start()
        response = await asyncio.wait_for(asking, 10)
        assert response.status_code == 200, response.text


async def test_an_encode_server_that_cannot_reach_the_language_server() -> None:
    async with system(says("ok"), encoders=1) as (router, (language,), (encode,)):
        deliver = encode.ship
        tries = 0

        async def unreachable_once(grant: embedding_pb2.Grant) -> bool:
            nonlocal tries
            tries += 1
            return await deliver(grant) if tries > 1 else False

        encode.ship = unreachable_once
        encode.ship_fails_revoked = False
        response = await router.chat([image(b"cat")])
        assert response.status_code == 200, response.text
        assert len(language.served[0].grants) == 2


async def test_an_encode_server_that_hangs() -> None:
    config = replace(CONFIG, health_timeout_seconds=0.1)
    async with system(says("ok"), encoders=2, config=config) as (router, _, encoders):

        async def hang() -> None:
            for peer in encoders:
                peer.on_grant = None
                peer.hangs = bool(peer.opened)
            await asyncio.Event().wait()

        for peer in encoders:
            peer.on_grant = hang
        response = await router.chat([image(b"cat")])
        assert response.status_code == 200, response.text
        assert [len(peer.opened) for peer in encoders] == [1, 1]


async def test_a_language_server_that_hangs() -> None:
    config = replace(CONFIG, health_timeout_seconds=0.1)
    async with system(says(WORDS), languages=2, config=config) as (router, languages, _):
        for peer in languages:
            peer.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            (first,) = [peer for peer in languages if peer.served]
            (second,) = [peer for peer in languages if not peer.served]
            second.pace = None
            first.hangs = True
            await stream.read()
        assert stream.text == WORDS


async def test_no_encode_server_can_do_it() -> None:
    config = replace(CONFIG, encode_attempts=2)
    async with system(says("ok"), encoders=2, config=config) as (router, _, encoders):
        for error, status in (
            (UnavailableError("no"), 503),
            (InternalError("tower fell"), 503),
            (OverloadedError("full"), 429),
        ):
            for peer in encoders:
                peer.refusal = error
            response = await router.chat([image(b"cat")])
            assert response.status_code == status, response.text
            assert response.json()["error"]["param"] == "messages[0].content[0]"
        assert (await router.chat("text goes on")).status_code == 200


async def test_servers_in_any_order() -> None:
    """The router first, then an encode server, then the language server."""
    language = LanguagePeer(says("ok"))
    encode = EncodePeer(language.deliver)
    async with running(language, encode):
        pass  # only to find free ports
    config = replace(CONFIG, language=(language.address,), encode=(encode.address,))
    async with routing(config, until=None) as router:
        assert (await router.client.get("/health")).status_code == 200
        assert (await router.client.get("/ready")).status_code == 503
        assert (await router.chat("hi")).status_code == 503
        async with running(encode):
            assert not router.services.fleet.readiness().image
            async with running(language):
                await router.until(lambda: router.services.fleet.readiness().image)
                assert (await router.chat([image(b"cat")])).status_code == 200
            await router.until(lambda: not router.services.fleet.readiness().text)
        await router.until(lambda: not router.services.fleet.encode.ready())
    assert not router.services.fleet.readiness().image


async def test_servers_with_another_model_are_refused() -> None:
    other = common_pb2.ModelInfo()
    other.CopyFrom(INFO)
    other.fingerprint = b"\x08" * 32
    narrow = common_pb2.ModelInfo()
    narrow.CopyFrom(INFO)
    narrow.dtype = common_pb2.FLOAT32
    async with system(says("ok")) as (_, (language,), (encode,)):
        strangers = [
            LanguagePeer(says("wrong"), info=other),
            EncodePeer(language.deliver, info=other),
            EncodePeer(language.deliver, info=narrow),
        ]
        async with running(*strangers):
            config = replace(
                CONFIG,
                language=(language.address, strangers[0].address),
                encode=(encode.address, strangers[1].address, strangers[2].address),
            )
            async with routing(config, until=None) as second:
                fleet = second.services.fleet
                await second.until(lambda: fleet.model is not None and len(fleet.encode.servers) == 3)
                assert fleet.model is not None
                # Whichever language server came first decides, and all others have to agree with it.
                right = fleet.model.info.fingerprint
                await second.until(
                    lambda: all(
                        server.ready or "another model" in server.trouble or "dtype" in server.trouble
                        for server in (*fleet.language.servers.values(), *fleet.encode.servers.values())
                    )
                )
                assert [server.info.fingerprint for server in fleet.language.ready() if server.info] == [right]
                expected = encode.address if right == FINGERPRINT else strangers[1].address
                assert [server.address for server in fleet.encode.ready()] == [expected]


async def test_a_request_that_takes_too_long() -> None:
    config = replace(CONFIG, request_timeout_seconds=0.3)
    async with system(says(WORDS), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(0)
        response = await router.chat("hi")
        assert response.status_code == 504
        await asyncio.wait_for(language.served[0].aborted.wait(), 5)
        assert 0 < language.served[0].generate.deadline_seconds <= 0.3


async def test_a_client_that_does_not_read() -> None:
    config = replace(CONFIG, request_timeout_seconds=0.3)
    async with system(says(WORDS), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(2)
        body = json.dumps(body_of("hi", stream=True)).encode()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return incoming.pop() if incoming else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"",
            "root_path": "", "scheme": "http", "http_version": "1.1", "headers": [], "server": ("x", 80),
        }  # fmt: skip
        serving = asyncio.create_task(create_app(router.services)(scope, receive, send))
        served = await asyncio.wait_for(language.request(), 5)
        await asyncio.wait_for(served.aborted.wait(), 5)
        await router.until(lambda: router.services.gate.running == 0)
        await asyncio.wait_for(serving, 10)
        assert router.metric("epd_requests_failed_total", status="504") == 1


async def test_a_drain_that_takes_too_long() -> None:
    """Streams that are cut say so, and why."""
    async with system(says(WORDS)) as (router, (language,), _):
        language.pace = asyncio.Semaphore(3)
        async with Stream(router) as stream:
            await stream.read(until="on")
            await asyncio.wait_for(router.services.gate.drain(0.1), 5)
            await stream.read()
        error = stream.events[-1]["error"]
        assert (error["code"], error["message"]) == ("unavailable", "this router is shutting down")
        await asyncio.wait_for(language.served[0].aborted.wait(), 5)


async def test_a_language_server_with_odd_files() -> None:
    """Of a kind that nobody thought of: the router says so and goes on with the files of another server."""
    odd, good = LanguagePeer(says("ok")), LanguagePeer(says("ok"))
    odd.model_files["generation_config.json"] = b'{"temperature": [1]}'  # a TypeError
    async with running(odd, good):
        config = replace(CONFIG, language=(odd.address,), encode=())
        async with routing(config, until=None) as router:
            pool = router.services.fleet.language
            await router.until(lambda: any("can't be used" in server.trouble for server in pool.servers.values()))
            assert (await router.client.get("/health")).status_code == 200
        async with routing(replace(config, language=(odd.address, good.address)), until="text") as router:
            assert (await router.chat("hi")).json()["choices"][0]["message"]["content"] == "ok"


async def test_a_full_router() -> None:
    config = replace(CONFIG, max_requests=1)
    async with system(says(WORDS), config=config) as (router, (language,), _):
        language.pace = asyncio.Semaphore(2)
        async with Stream(router) as stream:
            await stream.read(until="on")
            response = await router.chat("hi")
            assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
