"""Ways to break deepstack levels: what the last part of training teaches to refuse, and what the ablation measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch

# Legend: L levels, n visual rows, H hidden
Fault = Callable[[torch.Tensor], torch.Tensor]  # [L, n, H] to the same


def zero_all(levels_LnH: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(levels_LnH)


def zero(level: int) -> Fault:
    def apply(levels_LnH: torch.Tensor) -> torch.Tensor:
        kept = [row * 0 if index == level else row for index, row in enumerate(levels_LnH)]
        return torch.stack(kept)

    return apply


def swap(one: int, other: int) -> Fault:
    def apply(levels_LnH: torch.Tensor) -> torch.Tensor:
        order = list(range(len(levels_LnH)))
        order[one], order[other] = other, one
        return levels_LnH[order]

    return apply


def shift(levels_LnH: torch.Tensor) -> torch.Tensor:
    """Every row to the next token; the last one comes first."""
    return levels_LnH.roll(1, dims=1)


def all_faults(levels: int) -> dict[str, Fault]:
    """By name, for a model of so many levels."""
    return {
        "all zero": zero_all,
        **{f"{level} zero": zero(level) for level in range(levels)},
        **{f"{a} and {b} swapped": swap(a, b) for a in range(levels) for b in range(a + 1, levels)},
        "shifted": shift,
    }


def random_faults(rng: Random, count: int, share: float, levels: int) -> tuple[str | None, ...]:
    """Names of faults for `count` samples, about `share` of which get one."""
    names = sorted(all_faults(levels))
    return tuple(rng.choice(names) if rng.random() < share else None for _ in range(count))


def break_levels(levels_LBnH: torch.Tensor, names: Sequence[str | None]) -> torch.Tensor:
    """Each sample of a batch with its own fault."""
    if not any(names):
        return levels_LBnH
    faults = all_faults(len(levels_LBnH))
    samples = [
        faults[name](levels_LnH) if name else levels_LnH
        for name, levels_LnH in zip(names, levels_LBnH.unbind(1), strict=True)
    ]
    return torch.stack(samples, dim=1)
