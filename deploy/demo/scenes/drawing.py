"""Scenes to pixels: drawn with Pillow at twice the size and halved, so that edges are smooth."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from deploy.demo.drawings import Point
from deploy.demo.scenes.scene import Background, Clip, Scene, Thing

_SCALE = 2
# The strokes of a seven-segment display, and which of them make each digit: as corners of a 2 x 4 grid.
_STROKES = {
    "a": ((0, 0), (2, 0)),
    "b": ((2, 0), (2, 2)),
    "c": ((2, 2), (2, 4)),
    "d": ((0, 4), (2, 4)),
    "e": ((0, 2), (0, 4)),
    "f": ((0, 0), (0, 2)),
    "g": ((0, 2), (2, 2)),
}
_DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


def draw(scene: Scene) -> npt.NDArray[np.uint8]:
    """`[height, width, 3]`."""
    image = Image.new("RGB", (scene.width * _SCALE, scene.height * _SCALE), scene.background.first)
    canvas = ImageDraw.Draw(image)
    _draw_background(image, canvas, scene.background)
    for thing in scene.things:
        _draw_thing(canvas, thing)
    pixels = np.array(image.reduce(_SCALE))
    if scene.noise:
        noise = np.random.Generator(np.random.PCG64(scene.noise_seed)).integers(
            -scene.noise, scene.noise, pixels.shape, dtype=np.int16, endpoint=True
        )
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


def draw_clip(clip: Clip) -> list[npt.NDArray[np.uint8]]:
    """One `[height, width, 3]` a frame."""
    return [draw(clip.frame(index)) for index in range(clip.frames)]


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of `[height, width, 3]`: every pixel comes back as it is."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _draw_background(image: Image.Image, canvas: ImageDraw.ImageDraw, background: Background) -> None:
    width, height = image.size
    period = background.period * _SCALE
    if background.pattern == "stripes":
        for x in range(0, width, 2 * period):
            canvas.rectangle((x, 0, x + period - 1, height), fill=background.second)
    elif background.pattern == "checks":
        for row, y in enumerate(range(0, height, period)):
            for x in range(row % 2 * period, width, 2 * period):
                canvas.rectangle((x, y, x + period - 1, y + period - 1), fill=background.second)
    elif background.pattern == "slope":
        image.paste(background.second, (0, 0), Image.linear_gradient("L").resize((width, height)))


def _draw_thing(canvas: ImageDraw.ImageDraw, thing: Thing) -> None:
    outline = [(x * _SCALE, y * _SCALE) for x, y in thing.outline]
    if thing.shape == "circle":
        canvas.ellipse((*outline[0], *outline[2]), fill=thing.tint)
    else:
        canvas.polygon(outline, fill=thing.tint)
    if thing.digit is not None:
        _draw_digit(canvas, thing, thing.digit)


def _draw_digit(canvas: ImageDraw.ImageDraw, thing: Thing, digit: int) -> None:
    unit = thing.radius * _SCALE / 4.5
    red, green, blue = thing.tint
    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 130 else "white"

    def place(corner: tuple[int, int]) -> Point:
        return thing.x * _SCALE + (corner[0] - 1) * unit, thing.y * _SCALE + (corner[1] - 2) * unit

    thick = unit * 0.3
    for stroke in _DIGITS[digit]:
        (left, top), (right, bottom) = map(place, _STROKES[stroke])
        canvas.rectangle((left - thick, top - thick, right + thick, bottom + thick), fill=ink)
