"""A picture before it is drawn: what lies where on which background. And which scenes nobody may train on.

Every scene belongs to one of two disjoint worlds by its identity, a hash of what a viewer would call its content:
training draws from one, the evaluation set from the other. So no scene can be in both, however many are drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Literal

from deploy.demo.drawings import Point, polygon, star

RGB = tuple[int, int, int]
Box = tuple[int, int, int, int]
Pattern = Literal["plain", "stripes", "checks", "slope"]
Way = Literal["left", "right", "up", "down"]

COLOURS: dict[str, RGB] = {
    "red": (225, 25, 25),
    "green": (15, 140, 30),
    "blue": (25, 40, 225),
    "yellow": (245, 235, 20),
    "orange": (250, 145, 15),
    "purple": (135, 20, 150),
    "black": (12, 12, 12),
    "white": (248, 248, 248),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "hexagon", "cross")
WAYS: dict[Way, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DIGIT_SHAPES = ("circle", "square", "hexagon")  # roomy enough to write on
MAX_THINGS = 4
SMALLEST = 0.10  # radius, as a fraction of the shorter side
BOX_UNITS = 1000  # each side of a picture, in the units of a box
BOX_STEP = 10

_GROUNDS: tuple[RGB, ...] = (
    (255, 255, 255),
    (235, 235, 230),
    (255, 250, 220),
    (200, 222, 235),
    (150, 160, 165),
    (96, 96, 96),
    (60, 66, 75),
)
_CONTRAST = 70  # in at least one channel, of 255
_JITTER = 15
_CELLS = 32  # a thing's place counts for the identity in 32nds of the picture
_HELD_OUT = 16  # one scene of so many


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A coloured shape; centre and radius in pixels. `tint` is the exact colour, `digit` what is written on it."""

    shape: str
    colour: str
    tint: RGB
    x: int
    y: int
    radius: int
    digit: int | None = None

    @property
    def name(self) -> str:
        """Colour and shape, which no two things of a scene share."""
        return f"{self.colour} {self.shape}"

    @cached_property
    def outline(self) -> list[Point]:
        """Corners in pixels; for a circle those of the square around it, which have the same extent."""
        x, y, r = self.x, self.y, float(self.radius)
        if self.shape == "triangle":
            return polygon((x, y), r, 3)
        if self.shape == "star":
            return star((x, y), r)
        if self.shape == "diamond":
            return polygon((x, y), r, 4)
        if self.shape == "hexagon":
            return polygon((x, y), r, 6)
        if self.shape == "cross":
            arm = r * 0.36
            quarter = [(arm, -r), (arm, -arm), (r, -arm)]
            corners = [point for turn in range(4) for point in (_quarter_turns(corner, turn) for corner in quarter)]
            return [(x + dx, y + dy) for dx, dy in corners]
        half = r if self.shape == "circle" else r * 0.86
        return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]

    def takes_digit(self, side: int) -> bool:
        """Whether one can be read on it, in a picture whose shorter side has so many pixels."""
        return self.shape in DIGIT_SHAPES and self.radius > 0.17 * side

    def box(self, width: int, height: int) -> Box:
        """(left, top, right, bottom) in thousandths of a picture of this size, in steps of `BOX_STEP`."""
        xs, ys = zip(*self.outline, strict=True)
        return (
            _thousandths(min(xs), width),
            _thousandths(min(ys), height),
            _thousandths(max(xs), width),
            _thousandths(max(ys), height),
        )


@dataclass(frozen=True, kw_only=True)
class Background:
    """Two colours in a pattern of `period` pixels; plain has only the first."""

    pattern: Pattern
    first: RGB
    second: RGB
    period: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture. `noise` is added to every channel, at most that many of 255 steps either way, from `noise_seed`."""

    width: int
    height: int
    things: tuple[Thing, ...]
    background: Background
    noise: int
    noise_seed: int

    @property
    def identity(self) -> str:
        """Hex digest of what lies where, whatever the background, the exact tint and the resolution."""
        side = min(self.width, self.height)
        content = sorted(
            (
                thing.name,
                thing.digit if thing.digit is not None else -1,
                thing.x * _CELLS // self.width,
                thing.y * _CELLS // self.height,
                thing.radius * _CELLS // side,
            )
            for thing in self.things
        )
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A scene in which its first thing moves by `step` pixels a frame."""

    scene: Scene
    way: Way
    step: int
    frames: int

    def frame(self, index: int) -> Scene:
        dx, dy = WAYS[self.way]
        mover, *rest = self.scene.things
        moved = replace(mover, x=mover.x + dx * self.step * index, y=mover.y + dy * self.step * index)
        # noise of its own in each frame, as a camera has it
        return replace(self.scene, things=(moved, *rest), noise_seed=self.scene.noise_seed + index)


def is_held_out(identity: str) -> bool:
    """Whether a scene is for evaluation only."""
    return int(identity[:8], 16) % _HELD_OUT == 0


def random_scene(
    rng: Random, size: tuple[int, int], *, things: int, held_out: bool, smallest: float = SMALLEST, plain: bool = False
) -> Scene:
    """A scene of so many things from one of the two worlds; the same `rng` gives the same scene.

    Args:
        size: (width, height) in pixels.
        things: 1 to `MAX_THINGS`.
        held_out: from the evaluation's world, else from the one for training.
        smallest: radius, as a fraction of the shorter side.
        plain: one background colour and no noise.
    """
    assert 1 <= things <= MAX_THINGS, f"{things} things in a scene"
    while True:
        scene = _attempt(rng, size, things, smallest, plain)
        if scene is not None and is_held_out(scene.identity) == held_out:
            return scene


def random_clip(rng: Random, size: tuple[int, int], *, things: int, frames: int, held_out: bool) -> Clip:
    """A clip whose first picture is from one of the two worlds; the mover stays inside and crosses nothing."""
    while True:
        scene = random_scene(rng, size, things=things, held_out=held_out)
        way = rng.choice(tuple(WAYS))
        clip = Clip(scene=scene, way=way, step=round(min(size) * rng.uniform(0.07, 0.12)), frames=frames)
        mover, *rest = clip.frame(frames - 1).things
        path = [clip.frame(index).things[0] for index in range(frames)]
        if _inside(mover, size) and not any(_touch(place, other, 1.0) for place in path for other in rest):
            return clip


def _attempt(rng: Random, size: tuple[int, int], count: int, smallest: float, plain: bool) -> Scene | None:
    width, height = size
    side = min(size)
    background = _background(rng, side)
    if plain:
        background = replace(background, pattern="plain")
    grounds = [background.first] if background.pattern == "plain" else [background.first, background.second]
    spacing = 0.85 if rng.random() < 0.2 else 1.05  # some things overlap a little
    shapes = rng.sample(SHAPES, 2) if count > 1 and rng.random() < 0.35 else SHAPES  # so that shapes come twice
    largest = {1: 0.30, 2: 0.26, 3: 0.22, 4: 0.19}[count]
    things: list[Thing] = []
    for _ in range(60):
        if len(things) == count:
            break
        shape, colour = rng.choice(shapes), rng.choice(tuple(COLOURS))
        red, green, blue = (min(255, max(0, value + rng.randint(-_JITTER, _JITTER))) for value in COLOURS[colour])
        tint = (red, green, blue)
        radius = round(side * rng.uniform(smallest, largest))
        digit = rng.randint(0, 9) if shape in DIGIT_SHAPES and radius > 0.17 * side and rng.random() < 0.3 else None
        thing = Thing(
            shape=shape,
            colour=colour,
            tint=tint,
            x=rng.randint(radius, width - 1 - radius),
            y=rng.randint(radius, height - 1 - radius),
            radius=radius,
            digit=digit,
        )
        if (
            all(_differ(tint, ground) for ground in grounds)
            and all(thing.name != other.name for other in things)
            and not any(_touch(thing, other, spacing) for other in things)
        ):
            things.append(thing)
    if len(things) < count:
        return None
    noise = rng.choice((0, 0, 4, 8, 14))
    return Scene(
        width=width,
        height=height,
        things=tuple(things),
        background=background,
        noise=0 if plain else noise,
        noise_seed=rng.getrandbits(32),
    )


def _background(rng: Random, side: int) -> Background:
    pattern: Pattern = rng.choice(("plain", "plain", "stripes", "checks", "slope"))
    at = rng.randrange(len(_GROUNDS))
    # patterns mix neighbours only: a strong one would hide the shapes from people too
    return Background(
        pattern=pattern,
        first=_GROUNDS[at],
        second=_GROUNDS[at + 1 if at == 0 else at - 1],
        period=round(side * rng.uniform(0.06, 0.15)),
    )


def _differ(one: RGB, other: RGB) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) > _CONTRAST


def _touch(one: Thing, other: Thing, spacing: float) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) < (one.radius + other.radius) * spacing


def _inside(thing: Thing, size: tuple[int, int]) -> bool:
    return thing.radius <= thing.x < size[0] - thing.radius and thing.radius <= thing.y < size[1] - thing.radius


def _quarter_turns(point: Point, turns: int) -> Point:
    x, y = point
    for _ in range(turns):
        x, y = -y, x
    return x, y


def _thousandths(pixels: float, side: int) -> int:
    steps = round(pixels / side * BOX_UNITS / BOX_STEP)
    return min(BOX_UNITS, max(0, steps * BOX_STEP))
