"""What the vision tower takes of a batch, and what it should find there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deploy.demo.scenes.question import Case
from deploy.demo.train.hints import Labels, label
from deploy.demo.train.rendering import Renderer


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All temporal patches of B samples, legend as in `batch`.

    Attributes:
        patches: `[B * temporal patches, P, C*T*P*P]`.
        grid_hw: of each temporal patch.
        labels: of the visual rows.
    """

    patches: torch.Tensor
    grid_hw: tuple[int, int]
    labels: Labels


def render(renderer: Renderer, cases: Sequence[Case]) -> Pictures | None:
    """The media of cases, which have the same sizes; None for text alone."""
    grids = {
        (item.metadata.grid.h, item.metadata.grid.w, item.metadata.grid.t)
        for case in cases
        for item in renderer.items(case.media)
    }
    if not grids:
        return None
    assert len(grids) == 1, f"media of one batch have grids {grids}"
    ((h, w, _),) = grids
    patches = torch.cat([patches for case in cases for patches in renderer.patches(case.media)])
    return Pictures(
        patches=patches.view(-1, h * w, patches.shape[-1]),
        grid_hw=(h, w),
        labels=label(cases, (h // renderer.merge, w // renderer.merge), renderer.frames_per_patch),
    )
