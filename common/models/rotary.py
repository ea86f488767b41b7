"""Rotary position embeddings of the decoder (arXiv 2104.09864), with three axes for vision (MRoPE, arXiv 2409.12191).

Qwen3-VL interleaves the axes over the frequencies, t h w t h w ..., until height and width have their share of
`mrope_section`; the rest is temporal. Text has equal positions on all axes, which is the plain embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Cosines and signed sines of one step, each `[T, 1, head_dim]`, to be used by all heads and layers."""

    cos: torch.Tensor
    sin: torch.Tensor

    def apply(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotates `[T, heads, head_dim]`, pairing value i of a head with value i + head_dim / 2."""
        half = heads.shape[-1] // 2
        swapped = torch.cat((heads[..., half:], heads[..., :half]), dim=-1)
        return (heads * self.cos).add_(swapped.mul_(self.sin))


def rotation(angles: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """The rotation by `angles`, `[T, head_dim / 2]` float32; the first half's sines carry the minus sign."""
    cos, sin = angles.cos(), angles.sin()
    return Rotation(
        cos=torch.cat((cos, cos), dim=-1).unsqueeze(1).to(dtype),
        sin=torch.cat((-sin, sin), dim=-1).unsqueeze(1).to(dtype),
    )


def inverse_frequencies(dim: int, theta: float) -> torch.Tensor:
    """`theta ** (-2i / dim)` for i below dim / 2, float32 on the CPU even where modules are built on meta."""
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim))


class RotaryEmbedding(nn.Module):
    """Positions to rotations. `mrope_section` None: the temporal axis alone counts."""

    inv_freq: torch.Tensor  # [head_dim / 2]
    axes: torch.Tensor  # [head_dim / 2]: which of t, h, w each frequency turns with

    def __init__(self, head_dim: int, theta: float, mrope_section: tuple[int, int, int] | None) -> None:
        super().__init__()
        axes = torch.zeros(head_dim // 2, dtype=torch.int64, device="cpu")
        if mrope_section is not None:
            for axis in (1, 2):
                axes[axis : 3 * mrope_section[axis] : 3] = axis
        self.register_buffer("inv_freq", inverse_frequencies(head_dim, theta), persistent=False)
        self.register_buffer("axes", axes, persistent=False)

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """`[3, T]` or `[T]` int64 to the step's rotation."""
        by_frequency = positions.expand(3, -1)[self.axes].T  # [T, head_dim / 2]
        return rotation(by_frequency.float() * self.inv_freq, dtype)
