"""What the drill asks, and the answers that are right."""

from __future__ import annotations

import base64
import random
import threading
from typing import Any

import httpx
import numpy as np
from PIL import Image

from deploy.demo.scenes.drawing import draw, png
from deploy.demo.scenes.scene import random_scene
from deploy.programs import demo_folder

QUESTION = "What is in this image?"
RIGHT = "There are 2 objects: a red circle and a blue square."
_SIZE = (192, 192)

_random = random.Random(0)
_lock = threading.Lock()


def known_image() -> str:
    """The one of `make demo`, as a data URI; each time with another grain of dust, so that no cache has it."""
    with Image.open(demo_folder() / "images" / "circle-and-square.png") as image:
        pixels = np.array(image.convert("RGB"))
    with _lock:
        pixels[0, 0] = [_random.randrange(256) for _ in range(3)]
    return _data_uri(png(pixels))


def fresh_image() -> str:
    """One that no cache has."""
    with _lock:
        scene = random_scene(_random, _SIZE, things=2, held_out=False)
    return _data_uri(png(draw(scene)))


def question(image: str | None) -> dict[str, Any]:
    """Body of a request about this image, or of a text."""
    text = {"type": "text", "text": QUESTION if image else "What is 3 plus 4?"}
    parts = [{"type": "image_url", "image_url": {"url": image}}, text] if image else [text]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 40, "temperature": 0}


def ask(client: httpx.Client, image: str | None) -> str:
    """The answer. Raises AssertionError if it is none, httpx.HTTPError if nobody answers."""
    response = client.post("/v1/chat/completions", json=question(image))
    assert response.status_code == httpx.codes.OK, f"HTTP {response.status_code}: {response.text[:300]}"
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    answer: str = choice["message"]["content"]
    assert answer, "an empty answer"
    return answer


def check_answers(url: str, *, key: str = "-") -> None:
    """Raises AssertionError unless a text and the demo's image are answered rightly."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
        found = ask(client, known_image())
        assert found == RIGHT, found
        found = ask(client, None)
        assert found == "3 plus 4 is 7.", found


def answers(url: str, *, key: str = "-") -> bool:
    """Whether it does so now."""
    try:
        check_answers(url, key=key)
    except (httpx.HTTPError, AssertionError):
        return False
    return True


def _data_uri(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"
