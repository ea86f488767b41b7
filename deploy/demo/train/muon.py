"""Muon: momentum whose every matrix is made orthogonal before it is applied, so that all directions learn equally fast.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale that makes
its steps as large as AdamW's from "Muon is scalable for LLM training" (arXiv 2502.16982). `torch.optim.Muon` is the same
for single matrices; the experts of a layer are a stack of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

import torch
from torch import nn

# Of the quintic iteration that pulls all singular values towards 1: from the first source.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_ADAM_SCALE = 0.2
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For parameters `[..., out, in]`; those with more axes than a stack of matrices are flattened to `[out, rest]`."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: object) -> float: ...
    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        """Applies the gradients; there is no closure."""
        assert closure is None, "Muon evaluates nothing again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
                update = parameter.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
                matrices = update.flatten(1) if update.ndim > 3 else update
                scale = _ADAM_SCALE * max(matrices.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(orthogonal(matrices).view_as(parameter), alpha=group["lr"] * scale)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Each of `[..., m, n]` with its singular values pulled close to 1."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x
