"""Help for the vision tower while it is young: each visual row is asked at once what it shows.

Answers alone teach a tower slowly: the decoder must first find out where to look. So every row also says, through small
heads that are thrown away, which colour and which shape lies under it, which digit is written there, and where the
sides of that thing are. The training begins with that alone, and goes on with it for a while beside the questions. The
hints go to different tensors, so that these share the work from the start: colour to the first deepstack level, shape
to the second, digit to the third, the sides to main. Main is asked for colour and shape too: a name means both at once,
and a decoder of five layers that gets them one after the other binds names to things too late to compare these.

In the decoder there is one hint more: wherever a thing is named, it is asked for the sides of that thing, which is what
all questions about places, sizes and boxes come down to.

Legend: B samples, n visual rows of a sample, L levels, H hidden size of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional as F

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import COLOURS, SHAPES, Box, Clip, Scene, Thing
from deploy.demo.scenes.scoring import iou
from deploy.demo.train.coordinates import COORDINATES, box_steps, soft_targets
from deploy.demo.train.names import Named

_NOTHING = 0  # colours, shapes and digits count from 1
_UNCLEAR = -100  # the edge of a thing runs through the row: it may say what it likes
_COLOURS = {name: index for index, name in enumerate(COLOURS, start=1)}
_SHAPES = {name: index for index, name in enumerate(SHAPES, start=1)}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What lies under each row.

    Attributes:
        colours: `[B, n]`, 0 for nothing, negative where it is unclear.
        shapes: likewise.
        digits: likewise; 0 also for a thing without one.
        sides: `[B, n, 4]`, left, top, right and bottom of the thing, in steps of `BOX_STEP`.
    """

    colours: torch.Tensor
    shapes: torch.Tensor
    digits: torch.Tensor
    sides: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Hinted:
    """`loss`, a scalar with its graph: cross-entropies, of sides and digits where there is something. `colour`, `shape`
    and `digit` are the shares of right rows there, 1 where there is nothing; `box` is the mean intersection over
    union."""

    loss: torch.Tensor
    colour: float
    shape: float
    digit: float
    box: float


@dataclass(frozen=True, kw_only=True)
class Told:
    """`loss` as in `Hinted`, and the intersection over union of every name's box."""

    loss: torch.Tensor
    boxes: tuple[float, ...]


class Hints(nn.Module):
    """The heads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.colour = nn.Linear(hidden, len(COLOURS) + 1)
        self.shape = nn.Linear(hidden, len(SHAPES) + 1)
        self.main_colour = nn.Linear(hidden, len(COLOURS) + 1)
        self.main_shape = nn.Linear(hidden, len(SHAPES) + 1)
        self.digit = nn.Linear(hidden, 10 + 1)
        # Sides are told as answers tell them, by one of the coordinates: finer than any number that is regressed.
        self.sides = nn.Linear(hidden, 4 * COORDINATES)
        self.named = nn.Linear(hidden, 4 * COORDINATES)

    def forward(self, main_BnH: torch.Tensor, levels_LBnH: torch.Tensor, labels: Labels) -> Hinted:
        """What the rows of a batch say."""
        device = main_BnH.device
        colours, shapes, digits = (part.to(device) for part in (labels.colours, labels.shapes, labels.digits))
        there = shapes > _NOTHING
        colour, shape, digit = self.colour(levels_LBnH[0]), self.shape(levels_LBnH[1]), self.digit(levels_LBnH[2])
        said = (
            (colour, colours),
            (shape, shapes),
            (self.main_colour(main_BnH), colours),
            (self.main_shape(main_BnH), shapes),
        )
        loss = main_BnH.new_zeros(())
        for logits, wanted in said:
            loss = loss + F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_UNCLEAR)
        box = 1.0
        if there.any():
            sides, wanted_sides = self.sides(main_BnH[there]), labels.sides.to(device)[there]
            loss = loss + _sides_loss(sides, wanted_sides)
            loss = loss + F.cross_entropy(digit[there], digits[there])
            box = fmean(_ious(sides, wanted_sides))
        return Hinted(
            loss=loss,
            colour=_right(colour, colours),
            shape=_right(shape, shapes),
            digit=_right(digit, digits),
            box=box,
        )

    def of_names(self, halfway_BSH: torch.Tensor, named: Named) -> Told:
        """What names say."""
        if not len(named.rows):
            return Told(loss=halfway_BSH.new_zeros(()), boxes=())
        states_MH = halfway_BSH.flatten(0, 1)[named.rows.to(halfway_BSH.device)]
        said = self.named(F.rms_norm(states_MH, states_MH.shape[-1:]))
        sides = named.sides.to(said.device)
        return Told(loss=_sides_loss(said, sides), boxes=tuple(_ious(said, sides)))


def label(cases: Sequence[Case], rows_hw: tuple[int, int], frames_per_patch: int) -> Labels:
    """Of every row of every sample.

    Args:
        cases: with media.
        rows_hw: visual rows down and across each picture.
        frames_per_patch: of a clip; the first of them counts.
    """
    samples = [
        [entry for scene in _pictures(case, frames_per_patch) for entry in _label(scene, rows_hw)] for case in cases
    ]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([[getattr(entry, name) for entry in sample] for sample in samples])

    return Labels(colours=column("colour"), shapes=column("shape"), digits=column("digit"), sides=column("sides"))


@dataclass(frozen=True, kw_only=True)
class _Row:
    colour: int
    shape: int
    digit: int
    sides: Box = (0, 0, 0, 0)


_EMPTY = _Row(colour=_NOTHING, shape=_NOTHING, digit=_NOTHING)
_EDGE = _Row(colour=_UNCLEAR, shape=_UNCLEAR, digit=_UNCLEAR)


def _pictures(case: Case, frames_per_patch: int) -> Sequence[Scene]:
    if isinstance(case.media, Clip):
        return [case.media.frame(index) for index in range(0, case.media.frames, frames_per_patch)]
    return case.media


def _label(scene: Scene, rows_hw: tuple[int, int]) -> list[_Row]:
    """Of each row, in raster order: of the topmost thing that holds its middle, or whose middle it holds."""
    height, width = rows_hw
    high, wide = scene.height / height, scene.width / width
    rows = []
    for place in range(height * width):
        x, y = (place % width + 0.5) * wide, (place // width + 0.5) * high
        found = _EMPTY
        for thing in scene.things:  # the last one lies on top
            distance = math.hypot(x - thing.x, y - thing.y)
            if distance <= thing.radius or (abs(x - thing.x) <= wide / 2 and abs(y - thing.y) <= high / 2):
                found = _row(thing, scene)
            elif found is _EMPTY and distance < thing.radius + math.hypot(wide, high) / 2:
                found = _EDGE
        rows.append(found)
    return rows


def _row(thing: Thing, scene: Scene) -> _Row:
    return _Row(
        colour=_COLOURS[thing.colour],
        shape=_SHAPES[thing.shape],
        digit=_NOTHING if thing.digit is None else 1 + thing.digit,
        sides=box_steps(thing, scene),
    )


def _sides_loss(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of `[M, 4 * COORDINATES]` logits and `[M, 4]` steps."""
    loss: torch.Tensor = -(soft_targets(wanted) * said.view(-1, 4, COORDINATES).log_softmax(-1)).sum(-1).mean()
    return loss


def _ious(said: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    boxes = said.view(-1, 4, COORDINATES).argmax(-1)
    return [iou(one, other) for one, other in zip(boxes.tolist(), wanted.tolist(), strict=True)]


def _right(said: torch.Tensor, wanted: torch.Tensor) -> float:
    there = wanted > _NOTHING
    return (said.argmax(-1) == wanted)[there].float().mean().item() if there.any() else 1.0
