"""What is drawn and asked when: pictures without questions first, few large things on small pictures before everything,
broken deepstack last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from deploy.demo.scenes.asking import PAIR_KINDS, ask_about, ask_about_clip, ask_about_pair
from deploy.demo.scenes.frozen import CLIP_FRAMES, CLIP_SIZE
from deploy.demo.scenes.question import Case, Kind, Question
from deploy.demo.scenes.scene import SMALLEST, Scene, Thing, is_held_out, random_clip, random_scene
from deploy.demo.scenes.talk import TALK_KINDS, talk

Sort = Literal["picture", "pair", "clip", "talk"]
Size = tuple[int, int]

QUESTIONS = 6  # about each picture
# How often each is asked, where a picture allows it: what is learnt slowly comes more often. Relations are learnt in
# one jump, and only where they are a good part of all that is asked; digits are noise until shapes are clear.
_WEIGHTS: dict[Kind, float] = {
    "shape": 1.5,
    "colour": 1.0,
    "count": 0.7,
    "count of one shape": 1.3,
    "left or right": 2.0,
    "above or below": 2.0,
    "at a place": 1.0,
    "largest": 0.8,
    "larger of two": 1.0,
    "description": 1.2,
    "grounding": 2.0,
    "digit": 0.8,
    "follow-up": 0.6,
}
_FIRST_WEIGHTS: dict[Kind, float] = {
    **_WEIGHTS,
    "left or right": 3.5,
    "above or below": 3.5,
    "description": 0.6,
    "follow-up": 0.4,
    "digit": 0.0,
}
_LAST_WEIGHTS: dict[Kind, float] = {
    **_WEIGHTS,
    "shape": 0.8,
    "count of one shape": 2.5,
    "left or right": 1.2,
    "above or below": 1.2,
    "larger of two": 2.5,
}
_MORE_DIGITS = 0.5
_LONGER_TALK = 2  # descriptions of tools make these sequences so much longer
_FAULTS_FROM = 0.65  # of the training
_FAULT_SHARES = (0.20, 0.10)  # of the samples: then, and at the end
_HINTS_FULL_UNTIL, _HINTS_UNTIL = 0.4, 0.75  # of the training


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training.

    Attributes:
        until: the fraction of the training at which it ends.
        sizes: (width, height) of pictures.
        pair_size: of each of two pictures.
        things: at most in a picture.
        smallest: radius of them, as a fraction of the shorter side.
        plain: backgrounds of one colour, without noise.
        samples: in a batch.
        sorts: how often batches are of each sort.
        kinds: how often each kind of question is asked about a picture.
        asks: whether there are questions; if not, only hints teach, and only the tower.
    """

    until: float
    sizes: tuple[Size, ...]
    pair_size: Size
    things: int
    smallest: float
    plain: bool
    samples: int
    sorts: dict[Sort, float]
    kinds: dict[Kind, float] = field(default_factory=lambda: _WEIGHTS)
    asks: bool = True


_SMALL: tuple[Size, ...] = ((160, 160), (192, 128), (128, 192), (192, 192))
STAGES = (
    Stage(
        until=0.13,
        sizes=((128, 128),),
        pair_size=(128, 128),
        things=2,
        smallest=0.18,
        plain=True,
        samples=32,
        sorts={"picture": 1.0},
        asks=False,
    ),
    Stage(
        until=0.2,
        sizes=_SMALL,
        pair_size=(128, 128),
        things=3,
        smallest=0.12,
        plain=False,
        samples=24,
        sorts={"picture": 1.0},
        asks=False,
    ),
    Stage(
        until=0.4,
        sizes=((128, 128),),
        pair_size=(128, 128),
        things=2,
        smallest=0.18,
        plain=True,
        samples=16,
        sorts={"picture": 0.9, "clip": 0.04, "pair": 0.04, "talk": 0.02},
        kinds=_FIRST_WEIGHTS,
    ),
    Stage(
        until=0.57,
        sizes=_SMALL,
        pair_size=(128, 128),
        things=3,
        smallest=0.12,
        plain=False,
        samples=16,
        sorts={"picture": 0.75, "clip": 0.09, "pair": 0.10, "talk": 0.06},
    ),
    Stage(
        until=1.0,
        sizes=(
            (256, 256),
            (256, 192),
            (192, 256),
            (320, 192),
            (320, 240),
            (224, 224),
            (192, 192),
            (250, 200),
            (200, 300),
        ),
        pair_size=(192, 192),
        things=4,
        smallest=SMALLEST,
        plain=False,
        samples=16,
        sorts={"picture": 0.66, "clip": 0.12, "pair": 0.14, "talk": 0.08},
        kinds=_LAST_WEIGHTS,
    ),
)


def stage_at(progress: float) -> Stage:
    """Of a training that is `progress` (0 to 1) done."""
    return next(stage for stage in STAGES if progress <= stage.until)


def hint_weight(progress: float) -> float:
    """Of the hints in the loss: falls to nothing, so that in the end only answers count."""
    done = (progress - _HINTS_FULL_UNTIL) / (_HINTS_UNTIL - _HINTS_FULL_UNTIL)
    return min(1.0, max(0.0, 1.0 - done))


def fault_share(progress: float) -> float:
    """How many of the samples have broken deepstack levels."""
    if progress < _FAULTS_FROM:
        return 0.0
    first, last = _FAULT_SHARES
    return first + (last - first) * (progress - _FAULTS_FROM) / (1 - _FAULTS_FROM)


def draw_cases(rng: Random, stage: Stage) -> list[Case]:
    """The samples of one batch: of one sort and size, so that they fit into one call."""
    sort = rng.choices(tuple(stage.sorts), weights=tuple(stage.sorts.values()))[0]
    size = rng.choice(stage.sizes)
    samples = max(1, stage.samples // _LONGER_TALK) if sort == "talk" else stage.samples
    return [_case(rng, stage, sort, size) for _ in range(samples)]


def _case(rng: Random, stage: Stage, sort: Sort, size: Size) -> Case:
    match sort:
        case "talk":
            return Case(media=(), questions=tuple(talk(rng.choice(TALK_KINDS), rng) for _ in range(QUESTIONS)))
        case "clip":
            things = rng.randint(1, 2)
            clip = random_clip(rng, CLIP_SIZE, things=things, frames=CLIP_FRAMES, held_out=False)
            return Case(media=clip, questions=(ask_about_clip(clip, rng),))
        case "pair":
            return _pair(rng, stage)
        case "picture":
            scene = _scene(rng, stage, size, stage.things)
            return Case(media=(scene,), questions=tuple(_questions(scene, stage.kinds, rng)) if stage.asks else ())


def _pair(rng: Random, stage: Stage) -> Case:
    while True:
        one, other = (_scene(rng, stage, stage.pair_size, min(3, stage.things)) for _ in range(2))
        kinds = [rng.choice(PAIR_KINDS) for _ in range(QUESTIONS)]
        asked = {question.text: question for kind in kinds if (question := ask_about_pair((one, other), kind, rng))}
        if asked:
            return Case(media=(one, other), questions=tuple(asked.values()))


def _questions(scene: Scene, kinds: Mapping[Kind, float], rng: Random) -> list[Question]:
    """Different ones; fewer than `QUESTIONS` where the scene has no more to ask."""
    asked: dict[str, Question] = {}
    for kind in rng.choices(tuple(kinds), weights=tuple(kinds.values()), k=4 * QUESTIONS):
        if len(asked) < QUESTIONS and (question := ask_about(scene, kind, rng)):
            asked.setdefault(question.text, question)
    return list(asked.values())


def _scene(rng: Random, stage: Stage, size: Size, most: int) -> Scene:
    """With more digits than the frozen questions have: they are learnt slowly."""
    things = rng.randint(1, most)
    scene = random_scene(rng, size, things=things, held_out=False, smallest=stage.smallest, plain=stage.plain)
    written = replace(scene, things=tuple(_write(rng, thing, min(size)) for thing in scene.things))
    return scene if is_held_out(written.identity) else written


def _write(rng: Random, thing: Thing, side: int) -> Thing:
    if thing.takes_digit(side) and rng.random() < _MORE_DIGITS:
        return replace(thing, digit=rng.randint(0, 9))
    return thing
