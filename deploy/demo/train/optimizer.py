"""Muon for the matrices inside, AdamW for everything else.

Muon is momentum whose every matrix is made orthogonal before it is applied, so that all directions learn equally fast:
fewer steps than AdamW alone for a third more time a step. Source: Keller Jordan et al., "Muon: an optimizer for hidden
layers in neural networks" (2024); the scale that makes its steps as large as AdamW's: "Muon is scalable for LLM
training" (arXiv 2502.16982). `torch.optim.Muon` takes single matrices only; the experts of a layer are a stack.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

# Of the quintic iteration that pulls all singular values towards 1: from the first source.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_ADAM_SCALE = 0.2
_MOMENTUM = 0.95
_BETAS = (0.9, 0.98)
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")  # steps differ: the decoder rests while only the tower learns
# Embeddings are no maps, routers and heads have few outputs, and the mergers' large matrices would cost most of all.
_FOR_ADAM = ("embed", ".gate.", "merger", "hints.")


class Optimizer:
    """For the parameters of `learner`; matrices decay, all else does not."""

    def __init__(self, learner: nn.Module, *, weight_decay: float) -> None:
        named = dict(learner.named_parameters())
        self._weight_decay = weight_decay
        self._matrices = {
            name: parameter
            for name, parameter in named.items()
            if parameter.ndim >= 2 and not any(part in name for part in _FOR_ADAM)
        }
        self._momenta = {name: torch.zeros_like(matrix) for name, matrix in self._matrices.items()}
        self._others = {name: parameter for name, parameter in named.items() if name not in self._matrices}
        decaying = [parameter for parameter in self._others.values() if parameter.ndim >= 2]
        steady = [parameter for parameter in self._others.values() if parameter.ndim < 2]
        groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": steady, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(groups, betas=_BETAS, fused=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Applies the gradients with this learning rate, and forgets them."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        for name, matrix in self._matrices.items():
            if matrix.grad is None:
                continue
            momentum = self._momenta[name].lerp_(matrix.grad, 1 - _MOMENTUM)
            update = matrix.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
            stack = update.flatten(1) if update.ndim > 3 else update  # the patch convolution is one matrix
            scale = _ADAM_SCALE * max(stack.shape[-2:]) ** 0.5
            matrix.mul_(1 - rate * self._weight_decay)
            matrix.sub_(orthogonal(stack).view_as(matrix), alpha=rate * scale)
        for parameter in (*self._matrices.values(), *self._others.values()):
            parameter.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """All that it remembers, by "kind/parameter"."""
        tensors = {f"momentum/{name}": momentum for name, momentum in self._momenta.items()}
        for name, parameter in self._others.items():
            for kind in _ADAM_STATE:
                if parameter in self._adam.state:
                    tensors[f"{kind}/{name}"] = self._adam.state[parameter][kind]
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `state` gave."""
        for name, momentum in self._momenta.items():
            momentum.copy_(tensors[f"momentum/{name}"])
        for name, parameter in self._others.items():
            if f"{_ADAM_STATE[0]}/{name}" in tensors:
                self._adam.state[parameter] = {
                    kind: tensors[f"{kind}/{name}"].to(parameter.device) for kind in _ADAM_STATE
                }


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Each of `[..., m, n]` with its singular values pulled close to 1; bfloat16 is exact enough for that."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: torch.Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result
