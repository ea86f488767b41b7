"""What is drawn and asked in which part of the training.

Pictures without questions come first, few large things on small pictures before everything. Broken deepstack comes
late.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from deploy.demo.scenes.question import Kind
from deploy.demo.scenes.scene import SMALLEST

Sort = Literal["picture", "pair", "clip", "talk"]
Size = tuple[int, int]

# Steps of the whole training. A training of another length goes through the same stages in proportion.
TOTAL_STEPS = 8600

# How often each is asked, where a picture allows it: what is learnt slowly comes more often. Relations are learnt in
# one jump, and only where they are a good part of all that is asked.
_WEIGHTS: dict[Kind, float] = {
    "shape": 1.2,
    "colour": 0.8,
    "count": 0.7,
    "count of one shape": 1.3,
    "left or right": 2.0,
    "above or below": 2.0,
    "at a place": 0.8,
    "largest": 0.6,
    "larger of two": 1.0,
    "description": 2.0,
    "grounding": 2.5,
    "digit": 1.0,
    "follow-up": 0.5,
}
_FIRST_WEIGHTS: dict[Kind, float] = {
    **_WEIGHTS,
    "left or right": 3.5,
    "above or below": 3.5,
    "description": 1.0,
    "digit": 0.5,
}
_LAST_WEIGHTS: dict[Kind, float] = {
    **_WEIGHTS,
    "shape": 0.8,
    "count of one shape": 2.0,
    "larger of two": 2.0,
    "grounding": 3.5,
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training.

    Attributes:
        until: the last step of it.
        sizes: (width, height) of pictures.
        pair_size: of each of two pictures.
        things: at most in a picture.
        smallest: radius of them, as a fraction of the shorter side.
        plain: backgrounds of one colour, without noise.
        samples: in a batch.
        sorts: how often batches are of each sort.
        kinds: how often each kind of question is asked about a picture.
        asks: whether there are questions; if not, only hints teach, and only the tower.
        alike: how many of the relations are asked of two things of one shape or colour, where a picture has them.
        twins: how many of the pictures are drawn anew until two of their things have one shape: otherwise shapes alone
            would do for names.
        from_top: how many of the descriptions are from top to bottom: those from left to right teach only where things
            are across.
        which: how many of the questions which of two pictures has more are asked for the one that shows a thing.
    """

    until: int
    sizes: tuple[Size, ...]
    pair_size: Size
    things: int
    smallest: float
    plain: bool
    samples: int
    sorts: dict[Sort, float]
    kinds: dict[Kind, float] = field(default_factory=lambda: _WEIGHTS)
    asks: bool = True
    alike: float = 0.5
    twins: float = 0.3
    from_top: float = 0.35
    which: float = 0.0


_LARGE_THINGS = Stage(
    until=910,
    sizes=((128, 128),),
    pair_size=(128, 128),
    things=2,
    smallest=0.18,
    plain=True,
    samples=32,
    sorts={"picture": 1.0},
    asks=False,
)
_ALL_BACKGROUNDS = replace(
    _LARGE_THINGS,
    until=1400,
    sizes=((160, 160), (192, 128), (128, 192), (192, 192)),
    things=3,
    smallest=0.12,
    plain=False,
    samples=24,
)
_FIRST_QUESTIONS = replace(
    _LARGE_THINGS,
    until=2800,
    samples=16,
    sorts={"picture": 0.9, "clip": 0.04, "pair": 0.03, "talk": 0.03},
    kinds=_FIRST_WEIGHTS,
    asks=True,
    twins=0.5,
)
_MORE_THINGS = replace(
    _ALL_BACKGROUNDS,
    until=4100,
    samples=16,
    sorts={"picture": 0.75, "clip": 0.09, "pair": 0.10, "talk": 0.06},
    asks=True,
)
_AS_EVALUATED = replace(
    _MORE_THINGS,
    until=5300,
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
    sorts={"picture": 0.72, "clip": 0.09, "pair": 0.12, "talk": 0.07},
    kinds=_LAST_WEIGHTS,
    twins=0.2,
)
# Which of two pictures shows a thing is learnt last: a name has to be found in the one and missed in the other.
_MORE_PAIRS = replace(
    _AS_EVALUATED,
    until=6500,
    sorts={"picture": 0.52, "clip": 0.08, "pair": 0.34, "talk": 0.06},
    which=0.6,
)
_ALL_AGAIN = replace(
    _AS_EVALUATED,
    until=7400,
    sorts={"picture": 0.66, "clip": 0.09, "pair": 0.18, "talk": 0.07},
    kinds={**_LAST_WEIGHTS, "colour": 1.2, "description": 2.5, "grounding": 4.0},
    which=0.4,
)
# Boxes go on to sharpen, and to part things of one shape, long after everything else is known.
_SHARPER_BOXES = replace(
    _ALL_AGAIN,
    until=TOTAL_STEPS,
    kinds={**_ALL_AGAIN.kinds, "grounding": 6.0},
    twins=0.4,
)
STAGES = (
    _LARGE_THINGS,
    _ALL_BACKGROUNDS,
    _FIRST_QUESTIONS,
    _MORE_THINGS,
    _AS_EVALUATED,
    _MORE_PAIRS,
    _ALL_AGAIN,
    _SHARPER_BOXES,
)


def stage_at(step: float) -> Stage:
    """Of a training of `TOTAL_STEPS`."""
    return next(stage for stage in STAGES if step <= stage.until)
