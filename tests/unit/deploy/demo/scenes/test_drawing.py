from __future__ import annotations

import io
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from deploy.demo.scenes.drawing import draw, draw_clip, png
from deploy.demo.scenes.scene import COLOURS, SHAPES, Background, Scene, Thing, random_clip, random_scene

WHITE = Background(pattern="plain", first=(255, 255, 255), second=(255, 255, 255), period=8)


def one(shape: str) -> Scene:
    thing = Thing(shape=shape, colour="blue", tint=COLOURS["blue"], x=60, y=70, radius=40)
    return Scene(width=160, height=128, things=(thing,), background=WHITE, noise=0, noise_seed=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_box(shape: str) -> None:
    scene = one(shape)
    pixels = draw(scene)
    assert pixels.shape == (128, 160, 3)
    rows, columns = np.nonzero(pixels[..., 0] < 140)
    seen = (columns.min() / 160, rows.min() / 128, (columns.max() + 1) / 160, (rows.max() + 1) / 128)
    box = [side / 1000 for side in scene.things[0].box(160, 128)]
    assert np.allclose(seen, box, atol=0.02)
    assert tuple(pixels[70, 60]) == COLOURS["blue"]


def test_shapes_look_different() -> None:
    pictures = {draw(one(shape)).tobytes() for shape in SHAPES}
    assert len(pictures) == len(SHAPES)


def test_every_background_is_drawn_and_noise_is_small() -> None:
    rng = Random(0)
    seen = set()
    for _ in range(40):
        scene = random_scene(rng, (128, 128), things=1, held_out=False)
        seen.add(scene.background.pattern)
        assert np.array_equal(draw(scene), draw(scene))
    assert seen == {"plain", "stripes", "checks", "slope"}


def test_a_digit_is_written_in_another_colour() -> None:
    scene = one("square")
    (thing,) = scene.things
    written = [draw(replace(scene, things=(replace(thing, digit=digit),))).tobytes() for digit in (None, *range(10))]
    assert len(set(written)) == 11


def test_a_clip_moves() -> None:
    clip = random_clip(Random(1), (128, 128), things=1, frames=4, held_out=False)
    frames = draw_clip(clip)
    assert len(frames) == 4
    assert len({frame.tobytes() for frame in frames}) == 4


def test_png_is_lossless() -> None:
    pixels = draw(one("star"))
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)
