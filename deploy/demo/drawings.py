"""The sample images: coloured shapes on plain or striped backgrounds, drawn with Pillow."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

Point = tuple[float, float]


def polygon(centre: Point, radius: float, corners: int, turn: float = 0.0) -> list[Point]:
    """The corners of a regular polygon; `turn` in degrees, 0 puts the first corner on top."""
    x, y = centre
    angles = [math.radians(turn + 360 * corner / corners) for corner in range(corners)]
    return [(x + radius * math.sin(angle), y - radius * math.cos(angle)) for angle in angles]


def star(centre: Point, radius: float, points: int = 5) -> list[Point]:
    outer = polygon(centre, radius, points)
    inner = polygon(centre, radius * 0.4, points, turn=180 / points)
    return [corner for pair in zip(outer, inner, strict=True) for corner in pair]


def disc(draw: ImageDraw.ImageDraw, centre: Point, radius: float, colour: str) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def circle_and_square() -> Image.Image:
    """256 x 256: a red circle left of a blue square on white."""
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    disc(draw, (72, 128), 44, "red")
    draw.rectangle((144, 88, 224, 168), fill="blue")
    return image


def four_shapes() -> Image.Image:
    """320 x 240: a green triangle, a yellow star, an orange hexagon and a purple diamond on grey."""
    image = Image.new("RGB", (320, 240), (96, 96, 96))
    draw = ImageDraw.Draw(image)
    draw.polygon(polygon((80, 72), 52, 3), fill="green")
    draw.polygon(star((240, 60), 50), fill="yellow")
    draw.polygon(polygon((80, 180), 44, 6), fill="orange")
    draw.polygon(polygon((240, 180), 48, 4), fill="purple")
    return image


def stripes() -> Image.Image:
    """384 x 128: three black circles on pale stripes; wide, as extreme shapes go wrong first."""
    image = Image.new("RGB", (384, 128), "lightyellow")
    draw = ImageDraw.Draw(image)
    for x in range(0, 384, 16):
        draw.rectangle((x, 0, x + 7, 127), fill="lightblue")
    for x in (64, 192, 320):
        disc(draw, (x, 64), 32, "black")
    return image


def transparent_star() -> Image.Image:
    """192 x 192 with an alpha channel: a red star on nothing."""
    image = Image.new("RGBA", (192, 192), (0, 0, 0, 0))
    ImageDraw.Draw(image).polygon(star((96, 100), 84), fill="red")
    return image


def write_all(folder: Path) -> None:
    circle_and_square().save(folder / "circle-and-square.png", optimize=True)
    four_shapes().save(folder / "four-shapes.jpg", quality=90)
    stripes().save(folder / "stripes.png", optimize=True)
    transparent_star().save(folder / "transparent-star.png", optimize=True)
