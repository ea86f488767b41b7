from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deploy.demo.scenes.scene import BOX_STEP, COLOURS, SHAPES, Thing, is_held_out, random_clip, random_scene


def thing(shape: str, x: int = 50, y: int = 60, radius: int = 20) -> Thing:
    return Thing(shape=shape, colour="red", tint=COLOURS["red"], x=x, y=y, radius=radius)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ("circle", (300, 200, 700, 400)),
        ("diamond", (300, 200, 700, 400)),
        ("cross", (300, 200, 700, 400)),
        ("square", (330, 210, 670, 390)),  # 0.86 of the radius
        ("triangle", (330, 200, 670, 350)),  # cos 30° of the radius to the sides, half of it below
    ],
)
def test_boxes_are_tight(shape: str, box: tuple[int, ...]) -> None:
    assert thing(shape).box(100, 200) == box


def test_boxes_stay_in_the_picture_and_on_the_steps() -> None:
    rng = Random(0)
    for _ in range(100):
        scene = random_scene(rng, (200, 300), things=rng.randint(1, 4), held_out=False)
        for one in scene.things:
            left, top, right, bottom = one.box(scene.width, scene.height)
            assert 0 <= left < right <= 1000
            assert 0 <= top < bottom <= 1000
            assert all(side % BOX_STEP == 0 for side in (left, top, right, bottom))


def test_names_are_unique_in_a_scene() -> None:
    rng = Random(1)
    for _ in range(100):
        scene = random_scene(rng, (256, 256), things=4, held_out=False)
        assert len({one.name for one in scene.things}) == 4
        assert {one.shape for one in scene.things} <= set(SHAPES)


def test_the_same_seed_gives_the_same_scene() -> None:
    one, again, other = (random_scene(Random(seed), (256, 256), things=3, held_out=False) for seed in (5, 5, 6))
    assert one == again != other


def test_identity_is_what_lies_where() -> None:
    scene = random_scene(Random(7), (256, 256), things=3, held_out=False)
    first, *rest = scene.things
    same = [
        replace(scene, noise=scene.noise + 1, noise_seed=0),
        replace(scene, things=tuple(reversed(scene.things))),
        replace(scene, things=(replace(first, tint=(0, 0, 0)), *rest)),
    ]
    other = [
        replace(scene, things=(replace(first, x=(first.x + 128) % 256), *rest)),
        replace(scene, things=(replace(first, radius=first.radius * 2), *rest)),
        replace(scene, things=tuple(rest)),
    ]
    assert {one.identity for one in same} == {scene.identity}
    assert scene.identity not in {one.identity for one in other}


@pytest.mark.parametrize("held_out", [True, False])
def test_every_scene_is_of_the_world_that_was_asked_for(held_out: bool) -> None:
    rng = Random(2)
    for size in ((128, 128), (192, 256)):
        for _ in range(30):
            scene = random_scene(rng, size, things=rng.randint(1, 4), held_out=held_out)
            clip = random_clip(rng, size, things=rng.randint(1, 2), frames=4, held_out=held_out)
            assert is_held_out(scene.identity) == is_held_out(clip.scene.identity) == held_out


def test_a_mover_stays_inside() -> None:
    rng = Random(3)
    for _ in range(50):
        clip = random_clip(rng, (128, 128), things=2, frames=4, held_out=False)
        mover = clip.frame(3).things[0]
        assert mover.radius <= mover.x < 128 - mover.radius
        assert mover.radius <= mover.y < 128 - mover.radius
        assert clip.frame(0).things == clip.scene.things
        assert clip.frame(3).things[1:] == clip.scene.things[1:]
