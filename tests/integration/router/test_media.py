"""Images and videos: from the request through an encode server to the language server's grants."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from common.pb import common_pb2
from tests.integration.router.peers import EncodePeer, LanguagePeer
from tests.integration.router.system import Router, ids_of, says, system
from tests.integration.router.web import web_server

IMAGE_PAD, VIDEO_PAD = 1138, 1139


def data_uri(content: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def image(content: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(content)}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


async def test_an_image() -> None:
    async with system(says("A cat.")) as (router, (language,), (encode,)):
        response = await router.chat([text("What is"), image(b"cat"), text("this?")], return_timings=True)
        stages = ("body", "parse", "template", "fetch", "hash", "size", "tokenize")  # the servers measure the others
        await router.until(lambda: all(router.metric("epd_stage_seconds_count", stage=stage) == 1 for stage in stages))
    assert response.json()["choices"][0]["message"]["content"] == "A cat."
    timings = response.json()["timings"]
    assert timings["fetch"] > 0
    assert (timings["preprocess"], timings["vision"], timings["transfer"]) == (4, 5, 6)
    (opened,) = encode.opened
    assert (opened.kind, list(opened.sizes), encode.uploads) == (common_pb2.IMAGE, [3], [b"cat"])
    generate = language.served[0].generate
    (span,) = generate.spans
    assert (span.key, span.row_offset, span.rows, span.item_rows) == (opened.key, 0, 4, 4)
    assert (span.grid.t, span.grid.h, span.grid.w) == (1, 2, 8)
    pads = "<|image_pad|>" * 4
    expected = f"<|im_start|>user\nWhat is<|vision_start|>{pads}<|vision_end|>this?<|im_end|>\n<|im_start|>assistant\n"
    assert list(generate.prompt_ids) == ids_of(expected)
    assert span.token_offset == ids_of(expected).index(IMAGE_PAD)


async def test_several_images() -> None:
    """Spread over encode servers, in the order of the prompt; an image that comes twice is encoded once."""
    contents = [b"one", b"two", b"three", b"four", b"two"]
    async with system(says("ok"), encoders=2) as (router, (language,), encoders):
        response = await router.chat([part for content in contents for part in (image(content), text("and"))])
        assert response.status_code == 200
    spans = language.served[0].generate.spans
    assert len(spans) == 5
    assert spans[1].key == spans[4].key
    assert len({span.key for span in spans}) == 4
    assert [span.token_offset for span in spans] == sorted(span.token_offset for span in spans)
    assert sorted(upload for peer in encoders for upload in peer.uploads) == [b"four", b"one", b"three", b"two"]
    assert len(language.served[0].grants) == 4


async def test_what_the_language_server_holds_is_not_encoded() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        for _ in range(2):
            response = await router.chat([image(b"cat")])
            assert response.status_code == 200
    assert len(encode.opened) == 1
    assert not language.served[1].grants


async def test_an_unknown_size_is_asked_for_even_if_nothing_is_needed() -> None:
    """As after a restart of the router: the encode stream tells the size and is then given up."""
    async with system(says("ok")) as (router, (language,), (encode,)):
        await router.chat([image(b"cat")])
        await asyncio.wait_for(encode.ended.wait(), 5)
        encode.ended.clear()
        encode.cached.clear()
        router.services.grids.forget(encode.opened[0].key)
        language.pace = asyncio.Semaphore(0)
        asking = asyncio.create_task(router.chat([image(b"cat")]))
        await asyncio.wait_for(encode.ended.wait(), 5)
        assert len(encode.opened) == 2
        for _ in range(10):
            language.pace.release()
        assert (await asking).status_code == 200
    assert not language.served[1].grants


async def test_a_second_need() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        language.second_needs = True
        response = await router.chat([image(b"cat")])
        assert response.status_code == 200
    assert len(language.served[0].grants) == 2
    assert encode.uploads == [b"cat"]


async def test_videos() -> None:
    """A file and lists of frames; each temporal patch is a span with its time before it."""
    frames = [data_uri(b"f1", "image/jpeg"), data_uri(b"f2", "image/jpeg"), data_uri(b"f3", "image/jpeg")]
    payload = ",".join(frame.partition(",")[2] for frame in frames)
    contents = [
        {"type": "video_url", "video_url": {"url": data_uri(b"film", "video/mp4")}},
        {"type": "video", "video": frames, "fps": 2.0},
        {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{payload}"}},
    ]
    async with system(says("ok")) as (router, (language,), (encode,)):
        for content in contents:
            response = await router.chat(
                [text("see "), content, text("!")], mm_processor_kwargs={"num_frames": 4, "max_pixels": 9000}
            )
            assert response.status_code == 200, response.text
    film, listed, packed = encode.opened
    assert (film.kind, film.options.num_frames, film.options.max_pixels) == (common_pb2.VIDEO, 4, 9000)
    assert (listed.kind, list(listed.sizes), listed.options.fps) == (common_pb2.FRAMES, [2, 2, 2], 2.0)
    assert (packed.kind, packed.media_digest) == (common_pb2.FRAMES, listed.media_digest)
    pads = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    expected = (
        f"<|im_start|>user\nsee <|vision_start|><0.2 seconds>{pads}<1.2 seconds>{pads}<|vision_end|>!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    generate = language.served[0].generate
    assert list(generate.prompt_ids) == ids_of(expected)
    assert [(span.row_offset, span.rows, span.item_rows) for span in generate.spans] == [(0, 4, 8), (4, 4, 8)]
    assert {(span.grid.t, span.grid.h, span.grid.w) for span in generate.spans} == {(1, 2, 8)}


async def test_options_of_videos() -> None:
    """Those of the request, and a part's own rate goes before that."""
    film = {"type": "video_url", "video_url": data_uri(b"film", "video/mp4")}
    frames = {"type": "video", "video": [data_uri(b"f1"), data_uri(b"f2")]}
    options = {"fps": 1.5, "min_frames": 2, "max_frames": 6, "min_pixels": 5000}
    async with system(says("ok")) as (router, _, (encode,)):
        for part in (film, frames, {**frames, "fps": 3.0}):
            assert (await router.chat([part], mm_processor_kwargs=options)).status_code == 200
    rates = []
    for opened in encode.opened:
        told = opened.options
        assert (told.min_frames, told.max_frames, told.min_pixels) == (2, 6, 5000)
        rates.append(told.fps)
    assert rates == [1.5, 1.5, 3.0]


async def test_from_the_web() -> None:
    async with web_server() as web, system(says("ok"), config=web.config()) as (router, _, (encode,)):
        for path in ("/image", "/redirect?to=/image", "/untyped"):
            part = {"type": "image_url", "image_url": {"url": web.url + path}}
            response = await router.chat([part])
            assert response.status_code == 200, response.text
    assert encode.uploads == [b"image from the web"]


async def test_detail_and_options_are_part_of_the_key() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        part = image(b"cat")
        await router.chat([part])
        part["image_url"]["detail"] = "low"
        await router.chat([part])
        await router.chat([image(b"cat")], mm_processor_kwargs={"min_pixels": 4096})
        for detail in ("auto", "high", "original"):  # the checkpoint's own limits: as if nothing were said
            part["image_url"]["detail"] = detail
            assert (await router.chat([part])).status_code == 200
        for part in (
            {**image(b"cat"), "detail": "low"},
            {"type": "image_url", "image_url": data_uri(b"cat"), "detail": "low"},
            {"type": "input_image", "image_url": data_uri(b"cat"), "detail": "low"},
        ):
            assert (await router.chat([part])).status_code == 200
            assert language.served[-1].generate.spans[0].key == encode.opened[1].key
    keys = {opened.key for opened in encode.opened}
    assert len(keys) == 3
    assert encode.opened[1].options.max_pixels == 512 * 512
    assert encode.opened[2].options.min_pixels == 4096


async def test_tenants_share_nothing() -> None:
    from dataclasses import replace

    from tests.integration.router.system import CONFIG

    config = replace(CONFIG, api_key=("alpha", "beta"))
    async with system(says("ok"), config=config) as (router, (language,), (encode,)):
        for key in ("alpha", "beta"):
            router.client.headers["authorization"] = f"Bearer {key}"
            response = await router.chat([image(b"cat")])
            assert response.status_code == 200
    assert encode.opened[0].key != encode.opened[1].key
    assert language.served[0].generate.salt != language.served[1].generate.salt


async def test_a_client_that_leaves_while_its_image_is_encoded() -> None:
    async with system(says("ok")) as (router, (language,), (encode,)):
        granted = asyncio.Event()

        async def hang() -> None:
            granted.set()
            await asyncio.Event().wait()

        encode.on_grant = hang
        asking = asyncio.create_task(router.chat([image(b"cat")]))
        await asyncio.wait_for(granted.wait(), 5)
        asking.cancel()
        await asyncio.wait_for(encode.ended.wait(), 5)
        await asyncio.wait_for(language.served[0].aborted.wait(), 5)
        await router.until(lambda: router.metric("epd_requests_running") == 0)
        assert router.services.budget.used == 0


async def test_no_mixing() -> None:
    """Many requests with images of their own, over two servers of each kind: every one gets its own rows."""
    async with system(says("ok"), languages=2, encoders=2) as (router, languages, encoders):
        contents = [f"image {i}".encode() for i in range(24)]
        responses = await asyncio.gather(*(router.chat([text(f"{i}"), image(c)]) for i, c in enumerate(contents)))
        assert {response.status_code for response in responses} == {200}
        uploaded = sorted(upload for peer in encoders for upload in peer.uploads)
        await _check_keys(router, languages, encoders)
    assert uploaded == sorted(contents)


async def _check_keys(router: Router, languages: list[LanguagePeer], encoders: list[EncodePeer]) -> None:
    digests = {opened.key: opened.media_digest for peer in encoders for opened in peer.opened}
    assert len(digests) == len(set(digests.values())) == 24
    wanted = {span.key for peer in languages for served in peer.served for span in served.generate.spans}
    assert wanted == set(digests)
