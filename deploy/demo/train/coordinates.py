"""Sides of boxes as one of so many steps, in hints as in answers."""

from __future__ import annotations

import torch

from deploy.demo.scenes.scene import BOX_STEP, BOX_UNITS, Box, Scene, Thing

COORDINATES = BOX_UNITS // BOX_STEP + 1
_SOFTNESS = 1.0  # deviation, in steps


def box_steps(thing: Thing, scene: Scene) -> Box:
    """Left, top, right and bottom, in steps of `BOX_STEP`."""
    left, top, right, bottom = (side // BOX_STEP for side in thing.box(scene.width, scene.height))
    return left, top, right, bottom


def soft_targets(steps: torch.Tensor) -> torch.Tensor:
    """`[..., COORDINATES]`: what to aim at instead of one step alone: its neighbours are nearly as right."""
    away = torch.arange(COORDINATES, device=steps.device) - steps[..., None]
    return (-0.5 * (away / _SOFTNESS) ** 2).softmax(-1)
