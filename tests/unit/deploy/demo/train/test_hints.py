from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import COLOURS, SHAPES, Background, Clip, Scene, Thing
from deploy.demo.train.coordinates import COORDINATES, soft_targets
from deploy.demo.train.hints import Hints, label

PLAIN = Background(pattern="plain", first=(255, 255, 255), second=(255, 255, 255), period=8)
THING = Thing(shape="square", colour="blue", tint=COLOURS["blue"], x=48, y=16, radius=15, digit=7)
SCENE = Scene(width=128, height=64, things=(THING,), background=PLAIN, noise=0, noise_seed=0)


def test_labels_are_in_raster_order() -> None:
    labels = label([Case(media=(SCENE, SCENE), questions=())], (2, 4), 2)
    colour, shape = 1 + list(COLOURS).index("blue"), 1 + SHAPES.index("square")
    for made, value in ((labels.colours, colour), (labels.shapes, shape), (labels.digits, 1 + 7)):
        assert made.tolist() == [[-100, value, -100, 0, 0, -100, 0, 0] * 2]
    assert labels.sides[0, 1].tolist() == [side // 10 for side in THING.box(128, 64)]


def test_a_row_may_hold_a_small_thing() -> None:
    scene = replace(SCENE, things=(replace(THING, x=34, y=3, radius=2),))
    assert label([Case(media=(scene,), questions=())], (2, 4), 2).shapes[0, 1] == 1 + SHAPES.index("square")


def test_a_clip_has_the_labels_of_each_temporal_patch() -> None:
    clip = Clip(scene=SCENE, way="right", step=16, frames=4)
    labels = label([Case(media=clip, questions=())], (2, 4), 2)
    assert (labels.shapes[0] > 0).nonzero()[:, 0].tolist() == [1, 8 + 2]


def test_a_perfect_head_loses_only_what_is_soft() -> None:
    labels = label([Case(media=(SCENE,), questions=())], (2, 4), 2)
    sides, colours, shapes = 4 * COORDINATES, 1 + len(COLOURS), 1 + len(SHAPES)  # main holds these side by side
    hidden = sides + colours + shapes
    hints = Hints(hidden)
    with torch.no_grad():
        for head in hints.parameters():
            head.zero_()
        for head, start, size in (
            (hints.colour, 0, colours),
            (hints.shape, 0, shapes),
            (hints.digit, 0, 11),
            (hints.sides, 0, sides),
            (hints.main_colour, sides, colours),
            (hints.main_shape, sides + colours, shapes),
        ):
            head.weight[:, start : start + size] = torch.eye(size)
    levels = torch.zeros(3, 1, 8, hidden)
    for level, wanted in enumerate((labels.colours, labels.shapes, labels.digits)):
        levels[level, 0, torch.arange(8), wanted[0].clamp(min=0)] = 50
    targets = soft_targets(labels.sides)
    main = torch.cat(
        (
            targets.clamp(min=1e-30).log().flatten(2),
            50.0 * F.one_hot(labels.colours.clamp(min=0), colours),
            50.0 * F.one_hot(labels.shapes.clamp(min=0), shapes),
        ),
        dim=-1,
    )
    hinted = hints(main, levels, labels)
    there = targets[labels.shapes > 0]
    entropy = -(there * there.clamp(min=1e-30).log()).sum(-1).mean()
    torch.testing.assert_close(hinted.loss, entropy)
    assert (hinted.colour, hinted.shape, hinted.digit, hinted.box) == (1.0, 1.0, 1.0, 1.0)
    hinted = hints(main.roll(hidden // 8, dims=-1), levels.roll(1, dims=0), labels)
    assert hinted.loss > entropy + 1
    assert hinted.colour < 1
    assert hinted.shape < 1
    assert hinted.digit < 1
    assert hinted.box < 1
