"""Runs a model over a paged cache as the engine does, for tests of the models alone.

Cache slots start as NaN, so that reading one that was never written shows. Blocks are handed out back to front, so
that no sequence lies in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from common.models.config import TextConfig
from common.models.forward_batch import ForwardBatch, MediaInputs


@dataclass(kw_only=True)
class CachedSequence:
    """Blocks of one sequence, and how many of its tokens are in the cache."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


class PagedCache:
    """Key-value caches of all layers, and the sequences in them."""

    def __init__(
        self, config: TextConfig, *, block_size: int = 16, num_blocks: int = 256, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = (num_blocks, block_size, config.num_kv_heads, config.head_dim)
        self.block_size = block_size
        self.layers = [
            (torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype))
            for _ in range(config.num_layers)
        ]
        self._free = list(range(num_blocks))

    def batch(
        self,
        chunks: Sequence[tuple[CachedSequence, int]],
        *,
        all_logits: bool = False,
        media: MediaInputs | None = None,
    ) -> ForwardBatch:
        """A step that gives each sequence that many tokens more. Logits of each sequence's last row, or of all."""
        slots: list[int] = []
        for sequence, count in chunks:
            positions = range(sequence.length, sequence.length + count)
            sequence.length += count
            while len(sequence.blocks) * self.block_size < sequence.length:
                sequence.blocks.append(self._free.pop())
            slots += [sequence.blocks[p // self.block_size] * self.block_size + p % self.block_size for p in positions]
        widest = max(len(sequence.blocks) for sequence, _ in chunks)
        tables = [sequence.blocks + [0] * (widest - len(sequence.blocks)) for sequence, _ in chunks]
        query_lens = [count for _, count in chunks]
        last_rows = torch.tensor(query_lens).cumsum(0) - 1
        return ForwardBatch(
            query_lens=tuple(query_lens),
            context_lens=tuple(sequence.length for sequence, _ in chunks),
            block_tables=torch.tensor(tables),
            slot_mapping=torch.tensor(slots),
            kv_caches=self.layers,
            logits_indices=torch.arange(len(slots)) if all_logits else last_rows,
            media=media,
        )
