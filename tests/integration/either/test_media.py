"""Where pictures and videos come from, how large they are seen, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import ask, text_of
from tests.integration.contract.media import data_uri, image_part, png
from tests.integration.either.questions import COLOUR, FRAME_TOKENS, RED, RIGHT, VIDEO, WAY
from tests.integration.seeing.pictures import CLIP, IMAGE, frames

WIDE = png(1280, 640)
LOW = 512 * 512 // 32**2  # visual tokens of what `detail: low` allows


def look(client: OpenAI, *parts: dict[str, Any], question: str = COLOUR, **extra: Any) -> tuple[str | None, int]:
    """The answer, and visual tokens of the prompt."""
    content = [*parts, {"type": "text", "text": question}]
    answer = ask(client, content, temperature=0, max_tokens=40, extra_body=extra)
    count: int = answer.usage.prompt_tokens_details.image_tokens  # type: ignore[union-attr]
    return text_of(answer), count


def size(client: OpenAI, part: dict[str, Any], **extra: Any) -> int:
    return look(client, part, **extra)[1]


def refused(client: OpenAI, *parts: dict[str, Any], **extra: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        look(client, *parts, **extra)
    return caught.value


def test_where_pictures_come_from(client: OpenAI, web: str) -> None:
    for url in (data_uri(IMAGE), f"{web}/picture.png"):
        for part in (
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image_url", "image_url": url},
            {"type": "input_image", "image_url": url},
            {"image_url": {"url": url}},
        ):
            assert look(client, part) == (RED, 64)
    file = (demo_folder() / "images" / "circle-and-square.png").as_uri()
    assert look(client, {"type": "image_url", "image_url": {"url": file}})[0] == RED


def test_pictures_that_do_not_come(client: OpenAI, carol: OpenAI, web: str) -> None:
    for url in (
        data_uri(b"no image"),
        data_uri(IMAGE[:20]),
        f"{web}/nothing",
        f"{web}/stalled",
        "http://127.0.0.1:9/refused",
        "http://no-such-host.invalid/image.png",
        "ftp://example.org/image.png",
        "file:///etc/hostname",
    ):
        error = refused(
            client.with_options(timeout=20), image_part(IMAGE), {"type": "image_url", "image_url": {"url": url}}
        )
        assert (error.code, error.param) == ("invalid_media", "messages[0].content[1]"), url
    for url in (f"{web}/picture.png", (demo_folder() / "images" / "stripes.png").as_uri()):
        error = refused(carol, {"type": "image_url", "image_url": {"url": url}})
        assert error.code == "invalid_media", "the guarded router reads neither private addresses nor files"


def test_detail(client: OpenAI) -> None:
    whole = size(client, image_part(WIDE))
    assert whole == 1280 * 640 // 32**2
    for detail in ("auto", "high", "original"):
        assert size(client, image_part(WIDE, detail=detail)) == whole
    for part in (
        image_part(WIDE, detail="low"),
        {"type": "input_image", "image_url": data_uri(WIDE), "detail": "low"},
    ):
        assert LOW // 2 < size(client, part) <= LOW
    assert look(client, image_part(IMAGE, detail="low")) == (RED, 64), "it is small enough"
    assert refused(client, image_part(IMAGE, detail="sharp")).param == "messages[0].content[0].image_url.detail"


def test_pixels(client: OpenAI) -> None:
    assert size(client, image_part(WIDE), mm_processor_kwargs={"max_pixels": 100_000}) <= 100_000 // 32**2
    assert size(client, image_part(IMAGE), mm_processor_kwargs={"min_pixels": 300_000}) >= 300_000 // 32**2
    for options in ({"zebra": 1}, {"max_pixels": 0}, {"fps": -1}):
        (name,) = options
        assert refused(client, image_part(IMAGE), mm_processor_kwargs=options).param == f"mm_processor_kwargs.{name}"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 4),
        ({"fps": 2}, 4),
        ({"fps": 4}, 8),
        ({"num_frames": 4}, 4),
        ({"num_frames": 16}, 16),
        ({"max_frames": 4, "fps": 8}, 4),
        ({"min_frames": 8}, 8),
    ],
)
def test_videos(client: OpenAI, web: str, options: dict[str, Any], count: int) -> None:
    for url in (data_uri(VIDEO, "video/mp4"), f"{web}/clip.mp4"):
        part = {"type": "video_url", "video_url": {"url": url}}
        answer, rows = look(client, part, question=WAY, mm_processor_kwargs=options)
        assert rows == count // 2 * FRAME_TOKENS
        assert answer == RIGHT or count > 4, "what it has learnt has four frames"


def test_pixels_of_videos(client: OpenAI) -> None:
    part = {"type": "video_url", "video_url": {"url": data_uri(VIDEO, "video/mp4")}}
    _, rows = look(client, part, question=WAY, mm_processor_kwargs={"max_pixels": 4 * 96 * 96})
    assert rows == 2 * 9


def test_frames(client: OpenAI) -> None:
    listed = frames(CLIP)
    packed = "data:video/jpeg;base64," + ",".join(url.partition(",")[2] for url in listed["video"])
    for part in (listed, {"type": "video_url", "video_url": {"url": packed}}, {"video_url": packed}):
        assert look(client, part, question=WAY) == (RIGHT, 2 * FRAME_TOKENS)


def test_names(client: OpenAI, bob: OpenAI) -> None:
    name = {"uuid": "a-picture-of-alice"}
    by_name = {"type": "image_url", "image_url": None, **name}
    assert look(client, {**image_part(IMAGE), **name}) == (RED, 64)
    assert look(client, by_name) == (RED, 64)
    named = {"type": "input_image", "image_url": data_uri(IMAGE), "uuid": "another"}
    assert look(client, named) == look(client, {**named, "image_url": None}) == (RED, 64)
    video = {"type": "video_url", "video_url": {"url": data_uri(VIDEO, "video/mp4")}, "uuid": "a-clip"}
    for part in (video, {**video, "video_url": None}):
        assert look(client, part, question=WAY) == (RIGHT, 2 * FRAME_TOKENS)
    for asking, part in ((bob, by_name), (client, {**by_name, "uuid": "nobody"})):
        error = refused(asking, part)
        assert (error.code, error.param) == ("media_unknown", "messages[0].content[0]")


def test_limits(client: OpenAI, carol: OpenAI) -> None:
    assert "64" in refused(client, *[image_part(IMAGE)] * 65).message
    video = {"type": "video_url", "video_url": {"url": data_uri(VIDEO, "video/mp4")}}
    assert "4" in refused(client, *[video] * 5, question=WAY).message
    noise = image_part(png(64, 64) + bytes(20_000))
    assert refused(carol, noise).param == "messages[0].content[0]"
    huge = refused(client, image_part(png(20_000, 20_000)))
    assert (huge.code, huge.param) == ("invalid_media", "messages[0].content[0]")
