from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models.layers import Linear, PackedWeight, RMSNorm, gated_silu


def random_linear(dtype: torch.dtype, *, bias: bool) -> Linear:
    linear = Linear(40, 24, bias=bias)
    linear.weight = nn.Parameter(torch.randn(24, 40).to(dtype), requires_grad=False)
    if bias:
        linear.bias = nn.Parameter(torch.randn(24).to(dtype), requires_grad=False)
    return linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_packing_changes_nothing_but_rounding(rows: int, dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    torch.manual_seed(0)
    linear, hidden = random_linear(dtype, bias=bias), torch.randn(rows, 40).to(dtype)
    plain = linear(hidden)
    linear.pack()
    packed = linear(hidden)
    assert packed.dtype == dtype
    torch.testing.assert_close(packed, plain, atol=tolerance, rtol=0)


def test_packing_releases_the_plain_weight() -> None:
    if not PackedWeight.available(torch.empty(0)):
        pytest.skip("this build of torch has no oneDNN")
    linear = random_linear(torch.float32, bias=False)
    linear.pack()
    assert linear.weight.numel() == 0


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
