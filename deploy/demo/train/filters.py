"""What the patch embedding starts from: smooth patterns instead of noise.

A patch has 1536 values and its embedding 128, so a random projection loses most of what tells a corner from a curve.
The lowest frequencies of a cosine transform keep it: shapes are smooth but for their edges. That is only the start.

Legend: V embedding size, C channels, T frames of a patch, P pixels of its side.
"""

from __future__ import annotations

import math

import torch

# Brightness and two differences of colours, for red, green and blue; rows have length 1.
_AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
_GAIN = 0.15


def cosine_filters(size: int, channels: int, frames: int, side: int, width: int) -> torch.Tensor:
    """`[V, C, T, P, P]`: filters of rising frequency, the three axes of colour in turn, alike in all frames.

    Each is scaled up by its frequency, by which the contents of an edge fall off.
    """
    assert channels == 3, f"colours are red, green and blue, not {channels} channels"
    assert side == width, f"patches are square, not {side} x {width}"
    axes = _AXES / _AXES.norm(dim=1, keepdim=True)
    frequencies = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda uv: (sum(uv), uv))
    filters = []
    for index in range(size):
        u, v = frequencies[index // channels]
        wave = torch.outer(_wave(u, side), _wave(v, side)) * (1 + u + v)
        filters.append(axes[index % channels, :, None, None, None] * wave.expand(1, frames, side, side) / frames)
    return torch.stack(filters) * _GAIN


def _wave(frequency: int, side: int) -> torch.Tensor:
    """A cosine of so many half periods, of length 1."""
    wave = torch.cos(math.pi * frequency * (torch.arange(side) + 0.5) / side)
    unit: torch.Tensor = wave / torch.linalg.vector_norm(wave)
    return unit
