"""Media that are sent once, under a name of the client's own, and then by that name only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.integration.router.system import CONFIG, says, system
from tests.integration.router.test_media import data_uri, image, text


def named(content: bytes, uuid: str, **fields: Any) -> dict[str, Any]:
    return {**image(content), "uuid": uuid, **fields}


def by_name(uuid: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": None, "uuid": uuid, **fields}


def expect(response: httpx.Response, code: str, param: str = "messages[0].content[0]") -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert "send it with its content" in error["message"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "uuid": "cat"},
        {"type": "image_url", "image_url": None, "uuid": "cat"},
        {"type": "image_url", "image_url": {}, "uuid": "cat"},
        {"type": "image_url", "image_url": {"url": None}, "uuid": "cat"},
        {"type": "input_image", "uuid": "cat"},
    ],
)
async def test_all_ways_to_leave_the_content_out(part: dict[str, Any]) -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        assert (await router.chat([named(b"cat", "cat"), text("?")])).status_code == 200
        response = await router.chat([text("again"), part, text("?")])
        assert response.status_code == 200, response.text
        assert language.served[1].generate.spans[0].key == encode.opened[0].key
        assert len(encode.opened) == 1, "the language server has it"
        assert router.services.budget.used == 0


async def test_from_the_encode_server_while_that_has_it() -> None:
    async with system(says("ok"), encoders=2) as (router, (language,), encoders):
        await router.chat([named(b"cat", "cat")])
        language.held.clear()
        response = await router.chat([by_name("cat")])
        assert response.status_code == 200, response.text
        assert len(language.served[1].grants) == 1
        assert [upload for peer in encoders for upload in peer.uploads] == [b"cat"]
        # another one is asked first, which does not have it
        (holder,) = (peer for peer in encoders if peer.cached)
        (other,) = (peer for peer in encoders if not peer.cached)
        language.held.clear()
        router.services.grids.forget(holder.opened[0].key)
        server = next(s for s in router.services.fleet.encode.servers.values() if s.address == holder.address)
        server.load.queue_seconds = 100.0
        assert (await router.chat([by_name("cat")])).status_code == 200
        assert other.opened[-1].sizes == [3]


async def test_what_nobody_holds_any_more() -> None:
    """As after a restart of both servers: the error says what to do, and doing it helps."""
    async with system(says("ok"), encoders=2) as (router, (language,), encoders):
        await router.chat([named(b"cat", "cat")])
        for forget_grid in (False, True):
            language.held.clear()
            for peer in encoders:
                peer.cached.clear()
            if forget_grid:
                router.services.grids.forget(next(peer for peer in encoders if peer.opened).opened[0].key)
            expect(await router.chat([by_name("cat")]), "media_expired")
            assert (await router.chat([named(b"cat", "cat")])).status_code == 200
            assert (await router.chat([by_name("cat")])).status_code == 200
        assert router.metric("epd_requests_running") == 0


async def test_names_that_nobody_gave() -> None:
    config = replace(CONFIG, api_key=("alpha", "beta"))
    async with system(says("ok"), config=config) as (router, (language,), _):
        router.client.headers["authorization"] = "Bearer alpha"
        expect(await router.chat([by_name("cat")]), "media_unknown")
        expect(await router.chat([named(b"bad", "cat"), by_name("dog")]), "media_unknown", "messages[0].content[1]")
        assert (await router.chat([named(b"cat", "cat")])).status_code == 200
        expect(await router.chat([{"type": "video_url", "uuid": "cat"}]), "media_unknown")
        router.client.headers["authorization"] = "Bearer beta"
        expect(await router.chat([by_name("cat")]), "media_unknown")
        assert len(language.served) == 1


async def test_a_name_of_something_broken_stays_unknown() -> None:
    async with system(says("ok")) as (router, _, _):
        assert (await router.chat([named(b"bad", "cat")])).status_code == 400
        expect(await router.chat([by_name("cat")]), "media_unknown")


async def test_the_newest_content_counts() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        for content in (b"cat", b"dog"):
            await router.chat([named(content, "pet")])
        assert (await router.chat([by_name("pet")])).status_code == 200
        assert language.served[2].generate.spans[0].key == encode.opened[1].key != encode.opened[0].key


async def test_within_one_request() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        response = await router.chat([by_name("cat"), named(b"cat", "cat"), by_name("cat")])
        assert response.status_code == 200, response.text
        assert len({span.key for span in language.served[0].generate.spans}) == 1
        assert encode.uploads == [b"cat"]
        # known by name, not held any more, but here under no name
        language.held.clear()
        encode.cached.clear()
        assert (await router.chat([by_name("cat"), image(b"cat")])).status_code == 200


async def test_options() -> None:
    """Without content an item is as it was sent; with other options it is another one, which nobody has made."""
    async with system(says("ok")) as (router, (language,), (encode,)):
        low = {"type": "image_url", "image_url": {"url": data_uri(b"cat"), "detail": "low"}, "uuid": "cat"}
        await router.chat([low])
        for part in (by_name("cat"), by_name("cat", detail="low")):
            assert (await router.chat([part])).status_code == 200
            assert language.served[-1].generate.spans[0].key == encode.opened[0].key
        expect(await router.chat([by_name("cat")], mm_processor_kwargs={"max_pixels": 4096}), "media_expired")


async def test_videos() -> None:
    frames = {"type": "video", "video": [data_uri(b"f1"), data_uri(b"f2")], "fps": 2.0, "uuid": "frames"}
    film = {"type": "video_url", "video_url": {"url": data_uri(b"film", "video/mp4")}, "uuid": "film"}
    async with system(says("ok")) as (router, (language,), _):
        assert (await router.chat([frames, film])).status_code == 200
        for part in ({"type": "video", "uuid": "frames"}, {"type": "video_url", "uuid": "frames"}):
            response = await router.chat([part, {"type": "video_url", "video_url": None, "uuid": "film"}])
            assert response.status_code == 200, response.text
            keys = [[span.key for span in served.generate.spans] for served in language.served]
            assert keys[-1] == keys[0]
