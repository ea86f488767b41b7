from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models.config import MoEConfig
from common.models.moe import Experts, SparseMoE

EXPERTS, TOP, HIDDEN, SIZE = 6, 3, 16, 10


def make(*, normalize: bool = True) -> SparseMoE:
    torch.manual_seed(0)
    config = MoEConfig(
        num_experts=EXPERTS,
        experts_per_token=TOP,
        intermediate_size=SIZE,
        normalize_topk=normalize,
        sparse_layers=(True,),
    )
    moe = SparseMoE(config, HIDDEN)
    for module in (moe.gate, moe.experts):
        for name, parameter in module.named_parameters():
            setattr(module, name, nn.Parameter(torch.randn(parameter.shape), requires_grad=False))
    return moe


def row_by_row(moe: SparseMoE, hidden: torch.Tensor) -> torch.Tensor:
    """The definition, one row and one expert at a time."""
    experts: Experts = moe.experts
    result = torch.zeros_like(hidden)
    for i, row in enumerate(hidden):
        weights, chosen = (moe.gate.weight @ row).softmax(0).topk(TOP)
        if moe.normalize_topk:
            weights = weights / weights.sum()
        for weight, expert in zip(weights, chosen, strict=True):
            gate, up = (experts.gate_up_proj[expert] @ row).chunk(2)
            result[i] += weight * (experts.down_proj[expert] @ (F.silu(gate) * up))
    return result


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_equals_the_definition(rows: int, normalize: bool) -> None:
    moe = make(normalize=normalize)
    hidden = torch.randn(rows, HIDDEN)
    torch.testing.assert_close(moe(hidden), row_by_row(moe, hidden), atol=1e-4, rtol=1e-5)


def test_packing_changes_nothing_but_rounding() -> None:
    moe, hidden = make().bfloat16(), torch.randn(40, HIDDEN).bfloat16()
    expected = moe(hidden)
    moe.experts.pack()
    torch.testing.assert_close(moe(hidden), expected, atol=0.5, rtol=0.02)


def test_a_row_does_not_depend_on_its_batch() -> None:
    moe, hidden = make(), torch.randn(20, HIDDEN)
    together = moe(hidden)
    alone = torch.cat([moe(row) for row in hidden.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
