"""Where a thing of the picture is named in questions and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import Box, Clip
from deploy.demo.train.coordinates import box_steps


@dataclass(frozen=True, kw_only=True)
class Named:
    """M places where a name is complete, in the flattened B x S; `sides` `[M, 4]` of the thing, as in `Labels`; and
    `twins`, whether its picture has another thing of that shape, of each."""

    rows: torch.Tensor
    sides: torch.Tensor
    twins: tuple[bool, ...]


def find_names(
    cases: Sequence[Case],
    ids_BS: npt.NDArray[np.int64],
    faults: Sequence[str | None],
    tokenize: Callable[[str], list[int]],
) -> Named:
    """In samples of one picture whose deepstack levels are intact: elsewhere a name may mean anything."""
    rows: list[int] = []
    sides: list[Box] = []
    twins: list[bool] = []
    length = ids_BS.shape[1]
    for sample, (case, fault) in enumerate(zip(cases, faults, strict=True)):
        if fault is not None or isinstance(case.media, Clip) or len(case.media) != 1:
            continue
        (scene,) = case.media
        shapes = Counter(thing.shape for thing in scene.things)
        for thing in scene.things:
            name = np.array(tokenize(f" {thing.name}"))
            windows = np.lib.stride_tricks.sliding_window_view(ids_BS[sample], len(name))
            ends = np.flatnonzero((windows == name).all(axis=1)) + len(name) - 1
            rows += (sample * length + ends).tolist()
            sides += [box_steps(thing, scene)] * len(ends)
            twins += [shapes[thing.shape] > 1] * len(ends)
    return Named(
        rows=torch.tensor(rows, dtype=torch.int64),
        sides=torch.tensor(sides, dtype=torch.int64).view(-1, 4),
        twins=tuple(twins),
    )
