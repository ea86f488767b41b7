"""What is drawn and asked in which part of the training.

Pictures without questions come first, few large things on small pictures before everything. Broken deepstack comes
late, and so does what is learnt last: that a name means colour and shape together, where two things have one shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from deploy.demo.scenes.question import Kind
from deploy.demo.scenes.scene import SMALLEST

Sort = Literal["picture", "pair", "clip", "talk"]
Size = tuple[int, int]

# Steps of the whole training. A training of another length goes through the same stages in proportion.
TOTAL_STEPS = 7800

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
# What is still uncertain then: boxes, and which of two things of one shape is above the other.
_FINAL_WEIGHTS: dict[Kind, float] = {
    **_LAST_WEIGHTS,
    "shape": 0.5,
    "colour": 0.7,
    "count": 0.9,
    "above or below": 5.0,
    "at a place": 0.6,
    "largest": 0.4,
    "description": 2.5,
    "grounding": 4.0,
    "follow-up": 0.4,
}
# Descriptions from left to right teach where names are across, those from top to bottom where they are down.
_BINDING_WEIGHTS: dict[Kind, float] = {
    **_FINAL_WEIGHTS,
    "above or below": 3.0,
    "description": 6.0,
    "count of one shape": 1.0,
    "larger of two": 1.0,
    "digit": 0.2,
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
        alike: relations are asked of two things of one shape or colour where a picture has them, every second time.
        twins: how many of the pictures are drawn anew until two of their things have one shape.
        from_top: how many of the descriptions are from top to bottom.
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
    alike: bool = False
    twins: float = 0.0
    from_top: float = 0.0


_SMALL: tuple[Size, ...] = ((160, 160), (192, 128), (128, 192), (192, 192))
_LAST = Stage(
    until=5530,
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
)
_FINAL = replace(
    _LAST,
    until=5950,
    sorts={"picture": 0.76, "clip": 0.07, "pair": 0.11, "talk": 0.06},
    kinds=_FINAL_WEIGHTS,
    alike=True,
)
STAGES = (
    Stage(
        until=910,
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
        until=1400,
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
        until=2800,
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
        until=3990,
        sizes=_SMALL,
        pair_size=(128, 128),
        things=3,
        smallest=0.12,
        plain=False,
        samples=16,
        sorts={"picture": 0.75, "clip": 0.09, "pair": 0.10, "talk": 0.06},
    ),
    _LAST,
    _FINAL,
    replace(_FINAL, until=6300, twins=0.4),
    replace(
        _FINAL,
        until=7200,
        sizes=_SMALL,
        smallest=0.12,
        sorts={"picture": 0.9, "clip": 0.03, "pair": 0.04, "talk": 0.03},
        kinds=_BINDING_WEIGHTS,
        twins=0.4,
        from_top=0.7,
    ),
    replace(_FINAL, until=TOTAL_STEPS, twins=0.2, from_top=0.3),
)


def stage_at(step: float) -> Stage:
    """Of a training of `TOTAL_STEPS`."""
    return next(stage for stage in STAGES if step <= stage.until)
