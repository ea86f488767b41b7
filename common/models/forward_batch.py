"""What one forward of a decoder works on: rows of several sequences, and where their keys and values lie.

Legend of shapes:  T rows (tokens) of the step · S sequences · R rows whose logits are wanted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class MediaInputs:
    """Preprocessed images and videos of a single-process forward, and the rows that they fill.

    Attributes:
        pixel_values: `[patches, channels * temporal_patch * patch * patch]`, all items' patches one after another.
        grid_thw: `[items, 3]` int64, patches of each item along time, height and width.
        rows: `[n]` int64, the step's rows that take the n visual tokens, in their order.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ForwardBatch:
    """One step's sequences over a paged KV cache; the rows of all sequences lie one after another.

    Attributes:
        query_lens: tokens of each sequence in this step.
        context_lens: KV length of each sequence after this step: its earlier tokens and its query tokens.
        block_tables: `[S, max_blocks]` int64, block ids; entries past the context are 0.
        slot_mapping: `[T]` int64, `block_id * block_size + offset` of each row's key and value.
        kv_caches: per layer (keys, values), each `[num_blocks, block_size, kv_heads, head_dim]`.
        logits_indices: `[R]` int64, rows whose logits are wanted.
        media: only the whole vision-language models look at it.
    """

    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    block_tables: torch.Tensor
    slot_mapping: torch.Tensor
    kv_caches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    logits_indices: torch.Tensor
    media: MediaInputs | None = None

    def __post_init__(self) -> None:
        assert len(self.query_lens) == len(self.context_lens) == len(self.block_tables)
        assert sum(self.query_lens) == len(self.slot_mapping)
        assert all(0 < query <= context for query, context in zip(self.query_lens, self.context_lens, strict=True))
