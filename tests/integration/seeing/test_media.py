"""Pictures and videos in the ways that clients send them: the model has to see the same in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, OpenAI

from deploy.demo.scenes.drawing import draw, png
from tests.integration.contract.asking import ask, text_of
from tests.integration.contract.media import data_uri, web_server
from tests.integration.seeing.pictures import CLIP, PICTURE, mp4

COLOUR, RED = "What colour is the circle?", "It is red."
WAY, RIGHT = "Which way does the square move?", "It moves right."
VIDEO = mp4(CLIP)
FRAME_TOKENS = (CLIP.scene.width // 32) * (CLIP.scene.height // 32)  # of two frames together


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    files = {"/picture.png": ("image/png", png(draw(PICTURE))), "/clip.mp4": ("video/mp4", VIDEO)}
    with web_server(files) as url:
        yield url


def look(client: OpenAI, part: dict[str, Any], question: str, **extra: Any) -> tuple[str | None, int]:
    """The answer, and visual tokens of the prompt."""
    content = [part, {"type": "text", "text": question}]
    answer = ask(client, content, temperature=0, max_tokens=40, extra_body=extra)
    count: int = answer.usage.prompt_tokens_details.image_tokens  # type: ignore[union-attr]
    return text_of(answer), count


def test_pictures_from_the_web(client: OpenAI, claude: Anthropic, web: str) -> None:
    url = f"{web}/picture.png"
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"image_url": url}):
        assert look(client, part, COLOUR) == (RED, 64)
    content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": COLOUR}]
    answer = client.responses.create(model="demo", input=[{"role": "user", "content": content}], temperature=0)  # type: ignore[list-item, misc]
    assert answer.output_text == RED
    blocks: Any = [{"type": "image", "source": {"type": "url", "url": url}}, {"type": "text", "text": COLOUR}]
    message = claude.messages.create(
        model="demo", max_tokens=40, messages=[{"role": "user", "content": blocks}], extra_body={"temperature": 0}
    )
    assert message.content[0].text == RED  # type: ignore[union-attr]
    with pytest.raises(BadRequestError) as caught:
        look(client, {"type": "image_url", "image_url": {"url": f"{web}/nothing"}}, COLOUR)
    assert (caught.value.code, caught.value.param) == ("invalid_media", "messages[0].content[0]")


def test_video_files(client: OpenAI, web: str) -> None:
    for url in (data_uri(VIDEO, "video/mp4"), f"{web}/clip.mp4"):
        assert look(client, {"type": "video_url", "video_url": {"url": url}}, WAY) == (RIGHT, 2 * FRAME_TOKENS)
    back = data_uri(mp4(replace(CLIP, way="left", scene=CLIP.frame(CLIP.frames - 1))), "video/mp4")
    assert look(client, {"type": "video_url", "video_url": {"url": back}}, WAY)[0] == "It moves left."


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({"fps": 2}, 4),
        ({"fps": 4}, 8),
        ({"num_frames": 4}, 4),
        ({"num_frames": 16}, 16),
        ({"max_frames": 4, "fps": 8}, 4),
    ],
)
def test_how_many_frames_are_seen(client: OpenAI, options: dict[str, Any], frames: int) -> None:
    part = {"type": "video_url", "video_url": {"url": data_uri(VIDEO, "video/mp4")}}
    answer, count = look(client, part, WAY, mm_processor_kwargs=options)
    assert count == frames // 2 * FRAME_TOKENS
    assert (answer or "").startswith("It moves")
