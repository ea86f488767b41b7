"""Images and videos in all the ways to send them. The fakes count the rows that they were sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import ask, text_of
from tests.integration.contract.media import data_uri, image_part, png, web_server

SMALL = png(128, 128)  # 4 x 4 visual tokens, the least that the checkpoint allows
WIDE = png(1280, 640)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with web_server({"/image": ("image/png", SMALL)}) as url:
        yield url


def rows(client: OpenAI, *parts: dict[str, Any], **fields: Any) -> int:
    """Visual tokens of the prompt, as the usage has them and as the fake language server has seen them."""
    answer = ask(client, [{"type": "text", "text": "What?"}, *parts], **fields)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    count: int = answer.usage.prompt_tokens_details.image_tokens  # type: ignore[attr-defined]
    assert f"of {count} visual tokens" in (text_of(answer) or "")
    return count


def refused(client: OpenAI, part: dict[str, Any], code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        rows(client, image_part(SMALL), part)
    assert (caught.value.code, caught.value.param) == (code, "messages[0].content[2]")


def test_ways_to_name_an_image(client: OpenAI, web: str) -> None:
    file = (demo_folder() / "images" / "stripes.png").as_uri()
    for url in (data_uri(SMALL), f"{web}/image"):
        assert rows(client, {"type": "image_url", "image_url": {"url": url}}) == 16
        assert rows(client, {"type": "image_url", "image_url": url}) == 16
        assert rows(client, {"type": "input_image", "image_url": url}) == 16
        assert rows(client, {"image_url": {"url": url}}) == 16
    assert rows(client, {"type": "image_url", "image_url": {"url": file}}) > 16
    assert rows(client, *[image_part(png(128, 128, shade)) for shade in range(5)]) == 80


def test_sizes(client: OpenAI) -> None:
    whole = rows(client, image_part(WIDE))
    assert 200 < whole <= 512 * 512 // 32**2
    for detail in ("auto", "low", "high", "original"):  # this checkpoint's own limit is that of low
        assert rows(client, image_part(WIDE, detail=detail)) == whole
        assert rows(client, {"type": "input_image", "image_url": data_uri(WIDE), "detail": detail}) == whole
    limited = rows(client, image_part(WIDE), extra_body={"mm_processor_kwargs": {"max_pixels": 100_000}})
    assert limited <= 100_000 // 32**2
    grown = rows(client, image_part(SMALL), extra_body={"mm_processor_kwargs": {"min_pixels": 100_000}})
    assert grown >= 100_000 // 32**2


def test_videos(client: OpenAI) -> None:
    frames = [data_uri(png(128, 128, shade)) for shade in range(8)]
    listed = rows(client, {"type": "video", "video": frames})
    assert listed % 16 == 0
    assert listed >= 32
    packed = "data:video/jpeg;base64," + ",".join(frame.partition(",")[2] for frame in frames)
    for url in ({"url": packed}, packed):
        assert rows(client, {"type": "video_url", "video_url": url}) == listed


def test_a_name_is_enough_the_second_time(client: OpenAI, bob: OpenAI) -> None:
    part = {**image_part(png(64, 96, 7)), "uuid": "a-name-of-alice"}
    by_name = {"type": "image_url", "image_url": None, "uuid": "a-name-of-alice"}
    count = rows(client, part)
    assert rows(client, by_name) == count
    refused(bob, by_name, "media_unknown")
    refused(client, {**by_name, "uuid": "nobody"}, "media_unknown")


def test_what_is_refused(client: OpenAI, web: str) -> None:
    for url in (
        data_uri(b"no image"),
        data_uri(b""),
        data_uri(SMALL[:20]),
        "data:image/png;base64,%%%",
        "ftp://example.org/image.png",
        "file:///etc/hostname",
        f"{web}/missing",
        "http://127.0.0.1:9/refused",
    ):
        refused(client, {"type": "image_url", "image_url": {"url": url}}, "invalid_media")
    refused_fields = {
        "mm_processor_kwargs.zebra": {"extra_body": {"mm_processor_kwargs": {"zebra": 1}}},
        "mm_processor_kwargs.max_pixels": {"extra_body": {"mm_processor_kwargs": {"max_pixels": 0}}},
        "messages[0].content[1].image_url.detail": {},
    }
    for param, fields in refused_fields.items():
        with pytest.raises(BadRequestError) as caught:
            rows(client, image_part(SMALL, detail="auto" if fields else "sharp"), **fields)
        assert caught.value.param == param
    with pytest.raises(BadRequestError, match="64"):
        rows(client, *[image_part(SMALL)] * 65)
