"""Help for the vision tower while it is young: each visual row is asked at once what it shows.

Answers alone teach a tower slowly: the decoder must first find out where to look. So every row also says, through small
heads that are thrown away, which colour and which shape lies under it and where the sides of that thing are. The
training begins with that alone, and goes on with it for a while beside the questions. The three hints go to different
tensors, so that these share the work from the start: colour to the first deepstack level, shape to the last one, the
sides to main.

Legend: B samples, n visual rows of a sample, L levels, H hidden size of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import BOX_UNITS, COLOURS, SHAPES, Clip, Scene

_SIDES = 5.0  # weight of their distance, which is small in numbers
_NOTHING = 0  # colours and shapes count from 1
_COLOURS = {name: index for index, name in enumerate(COLOURS, start=1)}
_SHAPES = {name: index for index, name in enumerate(SHAPES, start=1)}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What lies under the middle of each row.

    Attributes:
        colours: `[B, n]`, 0 for nothing.
        shapes: likewise.
        sides: `[B, n, 4]`, from that middle to left, top, right and bottom of the thing, as fractions of the picture.
    """

    colours: torch.Tensor
    shapes: torch.Tensor
    sides: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Hinted:
    """`loss`, a scalar with its graph: cross-entropies, and the distance of the sides where there is something.
    `colour` and `shape` are the shares of right rows there, 1 where there is nothing."""

    loss: torch.Tensor
    colour: float
    shape: float


class Hints(nn.Module):
    """The heads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.colour = nn.Linear(hidden, len(COLOURS) + 1)
        self.shape = nn.Linear(hidden, len(SHAPES) + 1)
        self.sides = nn.Linear(hidden, 4)

    def forward(self, main_BnH: torch.Tensor, levels_LBnH: torch.Tensor, labels: Labels) -> Hinted:
        """What the rows of a batch say."""
        device = main_BnH.device
        colours, shapes, sides = (part.to(device) for part in (labels.colours, labels.shapes, labels.sides))
        said_colours, said_shapes = self.colour(levels_LBnH[0]), self.shape(levels_LBnH[-1])
        loss = F.cross_entropy(said_colours.flatten(0, 1), colours.flatten())
        loss = loss + F.cross_entropy(said_shapes.flatten(0, 1), shapes.flatten())
        there = shapes != _NOTHING
        if there.any():
            loss = loss + _SIDES * F.l1_loss(self.sides(main_BnH[there]), sides[there])
        return Hinted(loss=loss, colour=_right(said_colours, colours), shape=_right(said_shapes, shapes))


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
    return Labels(
        colours=torch.tensor([[entry[0] for entry in sample] for sample in samples]),
        shapes=torch.tensor([[entry[1] for entry in sample] for sample in samples]),
        sides=torch.tensor([[entry[2] for entry in sample] for sample in samples]),
    )


def _pictures(case: Case, frames_per_patch: int) -> Sequence[Scene]:
    if isinstance(case.media, Clip):
        return [case.media.frame(index) for index in range(0, case.media.frames, frames_per_patch)]
    return case.media


def _label(scene: Scene, rows_hw: tuple[int, int]) -> list[tuple[int, int, tuple[float, ...]]]:
    """(colour, shape, sides) of each row, in raster order."""
    height, width = rows_hw
    labels = []
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) / width, (row + 0.5) / height
            found: tuple[int, int, tuple[float, ...]] = (_NOTHING, _NOTHING, (0.0,) * 4)
            for thing in scene.things:  # the last one lies on top
                if math.hypot(x * scene.width - thing.x, y * scene.height - thing.y) <= thing.radius:
                    left, top, right, bottom = (side / BOX_UNITS for side in thing.box(scene.width, scene.height))
                    found = (_COLOURS[thing.colour], _SHAPES[thing.shape], (x - left, y - top, right - x, bottom - y))
            labels.append(found)
    return labels


def _right(said: torch.Tensor, wanted: torch.Tensor) -> float:
    there = wanted != _NOTHING
    return (said.argmax(-1) == wanted)[there].float().mean().item() if there.any() else 1.0
