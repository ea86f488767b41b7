"""Sparse mixture of experts: each row goes through its top-k experts, weighted by the router.

Legend of shapes:  T rows · K experts of a row · E experts · H hidden size · N intermediate size
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from common.models.config import MoEConfig
from common.models.layers import Linear, PackedWeight, gated_silu


class Experts(nn.Module):
    """All experts' gated MLPs, stacked: `gate_up_proj [E, 2N, H]` with gate first, `down_proj [E, H, N]`."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size), requires_grad=False
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size), requires_grad=False)
        self._packed: list[tuple[PackedWeight, PackedWeight]] | None = None

    def pack(self) -> None:
        """Trades the weights for a faster layout where that pays. Called once, after loading."""
        if PackedWeight.pays(self.gate_up_proj[0]):
            pairs = zip(self.gate_up_proj, self.down_proj, strict=True)
            self._packed = [(PackedWeight(gate_up), PackedWeight(down)) for gate_up, down in pairs]
            self.gate_up_proj = nn.Parameter(self.gate_up_proj.new_empty(0), requires_grad=False)
            self.down_proj = nn.Parameter(self.down_proj.new_empty(0), requires_grad=False)

    def forward(self, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The weighted sum of each row's experts.

        Rows are sorted by expert, so that each expert that is hit is one pair of products; the sum over a row's
        experts is taken in the router's order, whoever shares the batch.

        Args:
            hidden: `[T, H]`.
            experts: `[T, K]` int64.
            weights: `[T, K]` in the dtype of `hidden`.

        Returns:
            `[T, H]`.
        """
        per_row = experts.shape[1]
        order = experts.flatten().argsort(stable=True)
        counts = torch.bincount(experts.flatten(), minlength=self.num_experts).tolist()
        outputs = [
            self._expert(i, rows) for i, rows in enumerate(torch.split(hidden[order // per_row], counts)) if len(rows)
        ]
        unsorted = torch.empty(len(order), self.hidden_size, dtype=hidden.dtype, device=hidden.device)
        unsorted[order] = torch.cat(outputs)
        return unsorted.view(-1, per_row, self.hidden_size).mul_(weights.unsqueeze(-1)).sum(dim=1)

    def _expert(self, i: int, rows: torch.Tensor) -> torch.Tensor:
        if self._packed is not None:
            gate_up, down = self._packed[i]
            return down.matmul(gated_silu(gate_up.matmul(rows)))
        return F.linear(gated_silu(F.linear(rows, self.gate_up_proj[i])), self.down_proj[i])


class SparseMoE(nn.Module):
    """Router and experts. Softmax in float32; the top-k weights are renormalised where the model does that."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.normalize_topk = config.normalize_topk
        self.gate = Linear(hidden_size, config.num_experts)
        self.experts = Experts(config.num_experts, hidden_size, config.intermediate_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[T, H]` to the same shape."""
        probabilities = self.gate(hidden).softmax(dim=-1, dtype=torch.float32)
        weights, experts = probabilities.topk(self.experts_per_token, dim=-1)
        if self.normalize_topk:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        result: torch.Tensor = self.experts(hidden, experts, weights.to(hidden.dtype))
        return result
