"""The small parts that decoders and the vision tower are made of.

Modules are built on the meta device and filled by `weights`; nothing here initialises a weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Rows that oneDNN's blocked layout is made for; decode steps are about this size and gain most.
_PACK_ROWS = 16
# Smaller float32 matrices are faster plain: a oneDNN call has a fixed cost of about 14 us.
_MIN_FLOAT32_SIZE = 1 << 18


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467): the mean in float32, rounded to the input's dtype before the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., size]` to the same shape and dtype."""
        # not F.rms_norm with the weight: that rounds once, after it
        return self.weight * F.rms_norm(hidden, self.weight.shape, None, self.eps)


class LayerNorm(nn.Module):
    """Layer norm with weight and bias."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., size]` to the same shape and dtype."""
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class PackedWeight:
    """A matrix `[out, in]` in oneDNN's blocked layout: 1.5 to 4 times faster on a CPU for a few rows."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_ROWS)

    @staticmethod
    def pays(weight: torch.Tensor) -> bool:
        """Whether this processor has such a layout for a matrix like `weight`, and it is the faster one."""
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        if weight.dtype == torch.float32:
            return weight.numel() >= _MIN_FLOAT32_SIZE
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def matmul(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`hidden @ weight.T + bias`: `[T, in]` to `[T, out]`."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self._weight, bias, "none", [], "")
        return result


class Linear(nn.Module):
    """`hidden @ weight.T + bias`, with weight `[sum(outs), in]`.

    `parts` names the checkpoint's projections whose rows this weight holds one after another, as in
    `{"q_proj": 4096, "k_proj": 512, "v_proj": 512}`; one product then does the work of several. Empty: the weight has
    this module's own name in the checkpoint.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, parts: dict[str, int] | None = None
    ) -> None:
        super().__init__()
        assert parts is None or sum(parts.values()) == out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.parts = parts or {}
        self._packed: PackedWeight | None = None

    def pack(self) -> None:
        """Trades the weight for a faster layout where that pays. Called once, after loading."""
        if PackedWeight.pays(self.weight):
            self._packed = PackedWeight(self.weight)
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[T, in]` to `[T, out]`."""
        if self._packed is not None:
            return self._packed.matmul(hidden, self.bias)
        return F.linear(hidden, self.weight, self.bias)


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`, as in arXiv 2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        parts = {"gate_proj": intermediate_size, "up_proj": intermediate_size}
        self.gate_up_proj = Linear(hidden_size, 2 * intermediate_size, parts=parts)
        self.down_proj = Linear(intermediate_size, hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[T, hidden]` to the same shape."""
        result: torch.Tensor = self.down_proj(gated_silu(self.gate_up_proj(hidden)))
        return result


def gated_silu(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` for `[T, 2 * n]` with gate in the first half: `[T, n]`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class Embedding(nn.Module):
    """A row of `weight [count, size]` for each id."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 to `[T, size]`."""
        return F.embedding(ids, self.weight)
