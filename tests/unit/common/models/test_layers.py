from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models.layers import Linear, PackedWeight, RMSNorm, gated_silu


def random_linear(rows: int, columns: int, dtype: torch.dtype, *, bias: bool = False) -> Linear:
    torch.manual_seed(0)
    linear = Linear(columns, rows, bias=bias)
    for name, parameter in linear.named_parameters():
        setattr(linear, name, nn.Parameter(torch.randn(parameter.shape).to(dtype), requires_grad=False))
    return linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 1)])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_packing_changes_nothing_but_rounding(rows: int, dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    linear, hidden = random_linear(600, 500, dtype, bias=bias), torch.randn(rows, 500).to(dtype)
    plain = linear(hidden)
    if not PackedWeight.pays(linear.weight):
        pytest.skip("this processor has no packed layout")
    linear.pack()
    packed = linear(hidden)
    assert linear.weight.numel() == 0  # released
    assert packed.dtype == dtype
    torch.testing.assert_close(packed, plain, atol=tolerance, rtol=0)


def test_small_float32_matrices_stay_plain() -> None:
    linear = random_linear(24, 40, torch.float32)
    linear.pack()
    assert linear.weight.shape == (24, 40)


def test_rms_norm_rounds_before_the_weight() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(64, 1e-6)
    norm.weight = nn.Parameter(torch.randn(64).bfloat16(), requires_grad=False)
    hidden = (torch.randn(50, 64) * 3).bfloat16()
    wide = hidden.float()
    expected = norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16()
    assert torch.equal(norm(hidden), expected)


def test_gate_comes_first() -> None:
    gate, up = torch.randn(3, 5), torch.randn(3, 5)
    torch.testing.assert_close(gated_silu(torch.cat((gate, up), 1)), F.silu(gate) * up)
