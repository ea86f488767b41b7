"""The evaluation set: the same questions about the same pictures for ever, from scenes that training never draws.

`digest` is held by a test. Whoever changes what is drawn or asked changes it, and has to evaluate anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from random import Random

from deploy.demo.scenes.asking import PAIR_KINDS, PICTURE_KINDS, ask_about, ask_about_clip, ask_about_pair
from deploy.demo.scenes.drawing import draw, draw_clip
from deploy.demo.scenes.question import Case, Kind, Question
from deploy.demo.scenes.scene import MAX_THINGS, Clip, Scene, random_clip, random_scene
from deploy.demo.scenes.talk import TALK_KINDS, talk

SEED = "frozen evaluation set 1"
# (width, height); the last ones are no multiples of the patch size and get resized
SIZES = ((256, 256), (256, 192), (192, 256), (320, 192), (224, 224), (250, 200), (200, 300))
PAIR_SIZE = (192, 192)
CLIP_SIZE = (128, 128)
CLIP_FRAMES = 4
CLIP_FPS = 2.0
ITEMS_PER_KIND = 72
FEW_ITEMS_PER_KIND = 20


def frozen_cases(count: int | None = None) -> list[Case]:
    """The first `count`, or all: over 1000, of one question each. The kinds take turns, so that any slice has all."""
    sizes: dict[Kind, int] = dict.fromkeys((*PICTURE_KINDS, *PAIR_KINDS, "motion"), ITEMS_PER_KIND)
    sizes |= dict.fromkeys(TALK_KINDS, FEW_ITEMS_PER_KIND)
    order = [(kind, index) for index in range(ITEMS_PER_KIND) for kind, size in sizes.items() if index < size]
    return [_case(kind, Random(f"{SEED}/{kind}/{index}")) for kind, index in order[:count]]


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 over every question, every answer and every pixel."""
    sha = hashlib.sha256()
    for case in cases:
        sha.update(json.dumps([asdict(question) for question in case.questions], sort_keys=True).encode())
        for pixels in _pixels(case):
            sha.update(pixels)
    return sha.hexdigest()


def _pixels(case: Case) -> Iterator[bytes]:
    frames = draw_clip(case.media) if isinstance(case.media, Clip) else [draw(scene) for scene in case.media]
    for frame in frames:
        yield frame.tobytes()


def _case(kind: Kind, rng: Random) -> Case:
    """The first one that the generator finds an answer for."""
    while True:
        media: tuple[Scene, ...] | Clip
        question: Question | None
        if kind in TALK_KINDS:
            media, question = (), talk(kind, rng)
        elif kind == "motion":
            media = random_clip(rng, CLIP_SIZE, things=rng.randint(1, 2), frames=CLIP_FRAMES, held_out=True)
            question = ask_about_clip(media, rng)
        elif kind in PAIR_KINDS:
            media = tuple(random_scene(rng, PAIR_SIZE, things=rng.randint(1, 3), held_out=True) for _ in range(2))
            question = ask_about_pair(media, kind, rng)
        else:
            media = (random_scene(rng, rng.choice(SIZES), things=rng.randint(1, MAX_THINGS), held_out=True),)
            question = ask_about(media[0], kind, rng)
        if question is not None:
            return Case(media=media, questions=(question,))
