"""A picture to ask about, another one, and a clip."""

from __future__ import annotations

import io
from typing import Any

import av

from deploy.demo.scenes.drawing import draw, draw_clip, png
from deploy.demo.scenes.scene import COLOURS, Background, Clip, Scene, Thing
from tests.integration.contract.media import data_uri, image_part


def _thing(shape: str, colour: str, x: int, y: int, radius: int) -> Thing:
    return Thing(shape=shape, colour=colour, tint=COLOURS[colour], x=x, y=y, radius=radius)


def _scene(*things: Thing) -> Scene:
    ground = (235, 235, 230)
    background = Background(pattern="plain", first=ground, second=ground, period=16)
    return Scene(width=256, height=256, things=things, background=background, noise=0, noise_seed=0)


CIRCLE = _thing("circle", "red", 75, 80, 45)
SQUARE = _thing("square", "blue", 180, 175, 40)
PICTURE = _scene(CIRCLE, SQUARE)
IMAGE = png(draw(PICTURE))
OTHER = _scene(_thing("star", "green", 120, 120, 50))
CLIP = Clip(
    scene=Scene(
        width=128,
        height=128,
        things=(_thing("square", "blue", 30, 60, 18),),
        background=PICTURE.background,
        noise=0,
        noise_seed=0,
    ),
    way="right",
    step=12,
    frames=4,
)


def seen(question: str, *scenes: Scene, **fields: Any) -> list[dict[str, Any]]:
    """The content of a message; `fields` are those of its images."""
    return [*(image_part(png(draw(scene)), **fields) for scene in scenes), {"type": "text", "text": question}]


def frames(clip: Clip) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "video", "video": [data_uri(png(frame)) for frame in draw_clip(clip)], "fps": 2.0}


def mp4(clip: Clip) -> bytes:
    """Eight frames a second, of which four are the same: at two a second it is the clip."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = clip.scene.width, clip.scene.height, "yuv420p"
        for pixels in draw_clip(clip):
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
