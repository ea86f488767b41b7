"""The vision tower: patches to visual tokens, and the deepstack levels on the way.

Patches of all items lie one after another; within an item by temporal patch, and within that in merge order: the
`merge * merge` patches that become one visual token are neighbours. Attention joins the patches of one temporal patch
only, so an item's rows do not depend on what it is batched with, and a video can be cut in time.

Legend of shapes:  P patches · n visual tokens (P / merge**2) · V hidden size of the tower · H heads · D head_dim
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.models.config import VisionConfig
from common.models.layers import Embedding, LayerNorm, Linear
from common.models.rotary import Rotation, inverse_frequencies, rotation

_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class FrameRun:
    """Neighbouring temporal patches of equal size; they attend side by side in one call."""

    frames: int
    patches: int


class Qwen3_VisionTransformer(nn.Module):
    """The seed's `visual`."""

    inv_freq: torch.Tensor  # [D / 4]: half of a head turns with the row, half with the column

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.merge_size = config.merge_size
        self.patch_dim = config.patch_dim
        self.deepstack_indexes = config.deepstack_indexes
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config, norm_merged=False)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, norm_merged=True) for _ in config.deepstack_indexes
        )
        frequencies = inverse_frequencies(config.hidden_size // config.num_heads // 2, config.rope_theta)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        on_level: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Encodes a batch of items.

        Args:
            pixel_values: `[P, channels * temporal_patch * patch * patch]`, any float dtype.
            grid_thw: `[items, 3]` int64, patches of each item along time, height and width.
            on_level: called as `on_level(i, rows)` with level i, `[n, hidden]`, before the blocks after it run.

        Returns:
            `[n, hidden * (1 + levels)]`: main, then the levels, side by side.

        Raises:
            ValueError: a grid is not divisible by the merge size, or `pixel_values` does not fit the grids.
        """
        grids = [(t, h, w) for t, h, w in grid_thw.tolist()]
        self._check(pixel_values, grids)
        hidden = self.patch_embed(pixel_values)
        hidden = hidden + self._position_embeddings(grids).to(hidden.dtype)
        rotate = rotation(self._rotary_angles(grids), torch.float32)
        runs = frame_runs(grids)
        levels: list[torch.Tensor] = []
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, rotate, runs)
            if i in self.deepstack_indexes:
                levels.append(self.deepstack_merger_list[len(levels)](hidden))
                if on_level is not None:
                    on_level(len(levels) - 1, levels[-1])
        return torch.cat([self.merger(hidden), *levels], dim=1)

    def _check(self, pixel_values: torch.Tensor, grids: Sequence[tuple[int, int, int]]) -> None:
        for grid in grids:
            if min(grid) < 1 or grid[1] % self.merge_size or grid[2] % self.merge_size:
                raise ValueError(f"grid {grid} does not divide into {self.merge_size} x {self.merge_size} patches")
        expected = (sum(math.prod(grid) for grid in grids), self.patch_dim)
        if pixel_values.shape != expected:
            raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}, the grids make {expected}")

    def _position_embeddings(self, grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """The learned square of positions, stretched bilinearly to each grid (corners on corners): `[P, V]`."""
        table = self.pos_embed.weight
        side = math.isqrt(len(table))
        embeddings = []
        for t, h, w in grids:
            frame = torch.zeros(h, w, table.shape[1], dtype=torch.float32, device=table.device)
            for row, row_weight in _linear_taps(h, side, table.device):
                for column, column_weight in _linear_taps(w, side, table.device):
                    weight = row_weight.unsqueeze(1) * column_weight
                    frame += table[row.unsqueeze(1) * side + column] * weight.unsqueeze(2)
            embeddings.append(self._merge_order(frame).repeat(t, 1))
        return torch.cat(embeddings)

    def _rotary_angles(self, grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """Angles of each patch by its row, then by its column: `[P, D / 2]`."""
        angles = []
        for t, h, w in grids:
            by_row = torch.arange(h, device=self.inv_freq.device).unsqueeze(1) * self.inv_freq
            by_column = torch.arange(w, device=self.inv_freq.device).unsqueeze(1) * self.inv_freq
            frame = torch.cat((by_row.unsqueeze(1).expand(-1, w, -1), by_column.expand(h, -1, -1)), dim=2)
            angles.append(self._merge_order(frame).repeat(t, 1))
        return torch.cat(angles)

    def _merge_order(self, frame: torch.Tensor) -> torch.Tensor:
        """`[h, w, size]` to `[h * w, size]`, the patches of one visual token next to each other."""
        h, w, size = frame.shape
        merge = self.merge_size
        return frame.view(h // merge, merge, w // merge, merge, size).transpose(1, 2).reshape(h * w, size)


def frame_runs(grids: Sequence[tuple[int, int, int]]) -> list[FrameRun]:
    """The temporal patches of all items in order, equal neighbours joined."""
    sizes = [h * w for t, h, w in grids for _ in range(t)]
    return [FrameRun(frames=len(list(run)), patches=size) for size, run in itertools.groupby(sizes)]


def _linear_taps(size: int, side: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two neighbours on a line of `side` points for each of `size` points stretched over it, and their weights."""
    source = torch.arange(size, dtype=torch.float32, device=device) * (side - 1) / max(size - 1, 1)
    lower = source.floor()
    upper_weight = source - lower
    index = lower.long()
    return [(index, 1 - upper_weight), ((index + 1).clamp_(max=side - 1), upper_weight)]


class PatchEmbed(nn.Module):
    """A convolution whose kernel and stride are one patch: a product with the flattened patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = PatchProjection(config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[P, patch_dim]` to `[P, V]` in the tower's dtype."""
        return F.linear(pixel_values.to(self.proj.weight), self.proj.weight.flatten(1), self.proj.bias)


class PatchProjection(nn.Module):
    """The convolution's weight `[V, channels, temporal_patch, patch, patch]` and bias."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
        self.weight = nn.Parameter(torch.empty(config.hidden_size, *kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(config.hidden_size), requires_grad=False)


class VisionBlock(nn.Module):
    """Attention within each temporal patch, then an MLP, each behind a layer norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.hidden_size, _NORM_EPS)
        self.norm2 = LayerNorm(config.hidden_size, _NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, hidden: torch.Tensor, rotate: Rotation, runs: Sequence[FrameRun]) -> torch.Tensor:
        """`[P, V]` to the same shape."""
        hidden = hidden + self.attn(self.norm1(hidden), rotate, runs)
        result: torch.Tensor = hidden + self.mlp(self.norm2(hidden))
        return result


class VisionAttention(nn.Module):
    """Bidirectional attention among the patches of each temporal patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=True)
        self.proj = Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(self, hidden: torch.Tensor, rotate: Rotation, runs: Sequence[FrameRun]) -> torch.Tensor:
        """`[P, V]` to the same shape. `rotate` is float32: queries and keys are rotated in that precision."""
        heads = self.qkv(hidden).view(len(hidden), 3 * self.heads, -1)
        query_key = rotate.apply(heads[:, : 2 * self.heads].float()).to(hidden.dtype)
        query, key, value = query_key[:, : self.heads], query_key[:, self.heads :], heads[:, 2 * self.heads :]
        out = torch.empty_like(value, memory_format=torch.contiguous_format)
        start = 0
        for run in runs:
            rows = slice(start, start + run.frames * run.patches)
            attended = F.scaled_dot_product_attention(  # [frames, H, patches, D]
                _by_frame(query[rows], run), _by_frame(key[rows], run), _by_frame(value[rows], run)
            )
            out[rows] = attended.transpose(1, 2).flatten(0, 1)
            start = rows.stop
        result: torch.Tensor = self.proj(out.flatten(1))
        return result


def _by_frame(heads: torch.Tensor, run: FrameRun) -> torch.Tensor:
    """`[frames * patches, H, D]` to `[frames, H, patches, D]`."""
    return heads.view(run.frames, run.patches, *heads.shape[1:]).transpose(1, 2)


class VisionMLP(nn.Module):
    """Two layers with the tanh form of GELU between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.linear_fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[P, V]` to the same shape."""
        result: torch.Tensor = self.linear_fc2(F.gelu(self.linear_fc1(hidden), approximate="tanh"))
        return result


class PatchMerger(nn.Module):
    """Joins `merge * merge` patches into one visual token of the decoder's size.

    The norm is over single patches for main and over joined ones (`norm_merged`) for deepstack levels.
    """

    def __init__(self, config: VisionConfig, *, norm_merged: bool) -> None:
        super().__init__()
        self.merged_size = config.hidden_size * config.merge_size**2
        self.norm_merged = norm_merged
        self.norm = LayerNorm(self.merged_size if norm_merged else config.hidden_size, _NORM_EPS)
        self.linear_fc1 = Linear(self.merged_size, self.merged_size, bias=True)
        self.linear_fc2 = Linear(self.merged_size, config.out_hidden_size, bias=True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[P, V]` to `[n, hidden]`."""
        if self.norm_merged:
            hidden = self.norm(hidden.view(-1, self.merged_size))
        else:
            hidden = self.norm(hidden).view(-1, self.merged_size)
        result: torch.Tensor = self.linear_fc2(F.gelu(self.linear_fc1(hidden)))
        return result
