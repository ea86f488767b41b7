from __future__ import annotations

import torch

from common.models.rotary import RotaryEmbedding


def test_text_positions_are_equal_on_all_axes() -> None:
    positions, heads = torch.arange(9), torch.randn(9, 2, 16)
    plain = RotaryEmbedding(16, 1e4, None)
    mixed = RotaryEmbedding(16, 1e4, (4, 2, 2))
    expected = plain(positions, torch.float32).apply(heads)
    assert torch.equal(mixed(positions, torch.float32).apply(heads), expected)
    assert torch.equal(mixed(positions.expand(3, -1), torch.float32).apply(heads), expected)


def test_axes_interleave_until_their_share_is_used() -> None:
    assert RotaryEmbedding(20, 1e4, (5, 3, 2)).axes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 0]


def test_a_rotation_is_relative() -> None:
    rotary = RotaryEmbedding(32, 1e4, None)
    query, key = torch.randn(1, 1, 32), torch.randn(1, 1, 32)

    def score(i: int, j: int) -> torch.Tensor:
        rotate = rotary(torch.tensor([i, j]), torch.float32).apply(torch.cat((query, key)))
        return rotate[0].flatten().dot(rotate[1].flatten())

    torch.testing.assert_close(score(3, 1), score(103, 101), atol=1e-4, rtol=1e-4)


def test_frequencies_are_real_even_where_modules_are_built_on_meta() -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(16, 1e4, (4, 2, 2))
    assert rotary.inv_freq.device.type == rotary.axes.device.type == "cpu"
    assert rotary.inv_freq[0] == 1
