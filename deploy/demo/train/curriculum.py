"""The samples of a batch: scenes, and questions about them, as the stage wants them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from deploy.demo.scenes.asking import PAIR_KINDS, ask_about, ask_about_clip, ask_about_pair, ask_from_top
from deploy.demo.scenes.frozen import CLIP_FRAMES, CLIP_SIZE
from deploy.demo.scenes.question import Case, Kind, Question
from deploy.demo.scenes.scene import COLOURS, SHAPES, Scene, Thing, is_held_out, random_clip, random_scene
from deploy.demo.scenes.talk import TALK_KINDS, talk
from deploy.demo.train.stages import Size, Sort, Stage
from deploy.demo.train.tools import respell

QUESTIONS = 6  # about each picture
_MORE_DIGITS = 0.5
_TRIES = 4  # to find two things that have something in common
_LONGER_TALK = 2  # descriptions of tools make these sequences so much longer


def draw_cases(rng: Random, stage: Stage) -> list[Case]:
    """The samples of one batch: of one sort and size, so that they fit into one call."""
    sort = rng.choices(tuple(stage.sorts), weights=tuple(stage.sorts.values()))[0]
    size = rng.choice(stage.sizes)
    samples = max(1, stage.samples // _LONGER_TALK) if sort == "talk" else stage.samples
    return [_case(rng, stage, sort, size) for _ in range(samples)]


def _case(rng: Random, stage: Stage, sort: Sort, size: Size) -> Case:
    match sort:
        case "talk":
            return Case(media=(), questions=tuple(_talk(rng) for _ in range(QUESTIONS)))
        case "clip":
            things = rng.randint(1, 2)
            clip = random_clip(rng, CLIP_SIZE, things=things, frames=CLIP_FRAMES, held_out=False)
            return Case(media=clip, questions=(ask_about_clip(clip, rng),))
        case "pair":
            return _pair(rng, stage)
        case "picture":
            scene = _scene(rng, stage, size, stage.things)
            return Case(media=(scene,), questions=tuple(_questions(scene, stage, rng)) if stage.asks else ())


def _talk(rng: Random) -> Question:
    question = talk(rng.choice(TALK_KINDS), rng)
    return respell(question, rng) if question.tools else question


def _pair(rng: Random, stage: Stage) -> Case:
    while True:
        one, other = (_scene(rng, stage, stage.pair_size, min(3, stage.things)) for _ in range(2))
        kinds = [_pair_kind(stage, rng) for _ in range(QUESTIONS)]
        asked = {question.text: question for kind in kinds if (question := ask_about_pair((one, other), kind, rng))}
        if asked:
            return Case(media=(one, other), questions=tuple(asked.values()))


def _pair_kind(stage: Stage, rng: Random) -> Kind:
    kind = rng.choice(PAIR_KINDS)
    return "which of two images" if stage.which and rng.random() < stage.which else kind


def _questions(scene: Scene, stage: Stage, rng: Random) -> list[Question]:
    """Different ones; fewer than `QUESTIONS` where the scene has no more to ask."""
    asked: dict[str, Question] = {}
    kinds, weights = tuple(stage.kinds), tuple(stage.kinds.values())
    for kind in rng.choices(kinds, weights=weights, k=4 * QUESTIONS):
        if len(asked) < QUESTIONS and (question := _ask(scene, kind, stage, rng)):
            asked.setdefault(question.text, question)
    return list(asked.values())


def _ask(scene: Scene, kind: Kind, stage: Stage, rng: Random) -> Question | None:
    if kind == "description" and rng.random() < stage.from_top:
        return ask_from_top(scene, rng)
    question = ask_about(scene, kind, rng)
    if kind in ("left or right", "above or below") and rng.random() < stage.alike:
        others = [ask_about(scene, kind, rng) for _ in range(_TRIES)]
        return next((other for other in others if other is not None and _is_about_things_alike(other)), question)
    return question


def _is_about_things_alike(question: Question) -> bool:
    """Whether the two that are named have a colour or a shape in common."""
    words = [word for word in question.text.rstrip("?").split() if word in COLOURS or word in SHAPES]
    return len(words) > len(set(words))


def _scene(rng: Random, stage: Stage, size: Size, most: int) -> Scene:
    """With more digits than the frozen questions have: they are learnt slowly."""
    things = rng.randint(1, most)
    scene = _draw(rng, stage, size, things)
    if things > 1 and rng.random() < stage.twins:
        while len({thing.shape for thing in scene.things}) == things:
            scene = _draw(rng, stage, size, things)
    written = replace(scene, things=tuple(_write(rng, thing, min(size)) for thing in scene.things))
    return scene if is_held_out(written.identity) else written


def _draw(rng: Random, stage: Stage, size: Size, things: int) -> Scene:
    return random_scene(rng, size, things=things, held_out=False, smallest=stage.smallest, plain=stage.plain)


def _write(rng: Random, thing: Thing, side: int) -> Thing:
    if thing.takes_digit(side) and rng.random() < _MORE_DIGITS:
        return replace(thing, digit=rng.randint(0, 9))
    return thing
