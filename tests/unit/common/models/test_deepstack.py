from __future__ import annotations

import torch

from common.models.deepstack import add_deepstack_level


def test_levels_lie_side_by_side() -> None:
    hidden, embeds = torch.zeros(2, 3), torch.arange(12.0).view(2, 6)
    assert add_deepstack_level(hidden, embeds, 0).tolist() == [[0, 1, 2], [6, 7, 8]]
    assert add_deepstack_level(hidden, embeds, 1).tolist() == [[3, 4, 5], [9, 10, 11]]


def test_rows_without_vision_keep_every_bit() -> None:
    hidden = torch.randn(5, 8).bfloat16()
    embeds = torch.zeros(5, 24).bfloat16()
    embeds[2] = 1
    result = add_deepstack_level(hidden, embeds, 2)
    assert torch.equal(result[[0, 1, 3, 4]], hidden[[0, 1, 3, 4]])
    assert torch.equal(result[2], hidden[2] + 1)


def test_the_input_is_left_alone() -> None:
    """A captured graph or a retried step may read it again."""
    hidden = torch.zeros(1, 2)
    add_deepstack_level(hidden, torch.ones(1, 2), 0)
    assert hidden.sum() == 0
