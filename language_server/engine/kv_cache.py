"""The memory behind the blocks, allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class KVCacheShape:
    """Keys and values of every layer: each `[num_blocks, block_size, kv_heads, head_dim]`."""

    layers: int
    block_size: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Of one block in all layers, keys and values."""
        return 2 * self.layers * self.block_size * self.kv_heads * self.head_dim * self.dtype.itemsize


class KVCache:
    """Per layer a pair (keys, values)."""

    def __init__(self, shape: KVCacheShape, *, num_blocks: int, device: torch.device) -> None:
        size = (shape.layers, 2, num_blocks, shape.block_size, shape.kv_heads, shape.head_dim)
        self.block_bytes = shape.block_bytes
        # Zeros, not garbage: a padded gather may read slots that were never written, and 0 * NaN is NaN.
        self._memory = torch.zeros(size, dtype=shape.dtype, device=device)
        self.layers = tuple((layer[0], layer[1]) for layer in self._memory)

    def copy(self, source: int, target: int) -> None:
        """Copies one block in all layers."""
        self._memory[:, :, target] = self._memory[:, :, source]
