"""Causal attention of the decoder over a paged KV cache.

A step's keys and values are written to their slots first; then each sequence reads its whole context back:

    prefill chunk    a sequence with several query rows; its queries are taken a tile at a time, each tile against the
                     keys up to its last row
    decode           sequences with one query row, several at once, padded to the longest of their group

`AttentionPlan` holds what is the same for all layers. Legend of shapes:  T rows · S sequences of a group · L keys ·
KV key-value heads · G query heads of one key-value head · D head_dim
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.models.config import TextConfig
from common.models.forward_batch import ForwardBatch
from common.models.layers import Linear, RMSNorm
from common.models.rotary import Rotation

KVCache = tuple[torch.Tensor, torch.Tensor]

# Query rows of a prefill tile: bounds the mask, and the keys that are multiplied only to be masked.
_TILE_ROWS = 256
# Keys and values that one decode group gathers. On a CPU they should stay in the cache between gather and use.
_CPU_GROUP_BYTES = 4 << 20
_GPU_GROUP_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """One sequence's rows `start` to `start + query_len` of the step. `slots` is `[context_len]`."""

    start: int
    query_len: int
    context_len: int
    slots: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """Sequences with one row each: `rows [S]`, `slots [S * L]`, and `mask [S, 1, 1, L]` where lengths differ."""

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Which keys each row of the step reads, and at which slots it writes its own.

    `tile_mask` is additive and aligned to the lower right: of a tile with n rows and L keys it is the last n rows and
    the last L columns. None if no chunk has a context from before this step.
    """

    slot_mapping: torch.Tensor
    chunks: tuple[PrefillChunk, ...]
    groups: tuple[DecodeGroup, ...]
    tile_mask: torch.Tensor | None


def plan_attention(batch: ForwardBatch, dtype: torch.dtype) -> AttentionPlan:
    """Prepares a step for all layers; `dtype` is the model's."""
    keys = batch.kv_caches[0][0]
    block_size, row_bytes = keys.shape[1], 2 * keys[0, 0].nbytes
    starts, decodes = [0], []
    chunks = []
    for i, (query_len, context_len) in enumerate(zip(batch.query_lens, batch.context_lens, strict=True)):
        if query_len == 1:
            decodes.append(i)
        else:
            slots = _slots(batch.block_tables[i : i + 1], [context_len], block_size)
            chunks.append(PrefillChunk(start=starts[i], query_len=query_len, context_len=context_len, slots=slots))
        starts.append(starts[i] + query_len)
    budget = (_CPU_GROUP_BYTES if keys.device.type == "cpu" else _GPU_GROUP_BYTES) // row_bytes
    return AttentionPlan(
        slot_mapping=batch.slot_mapping,
        chunks=tuple(chunks),
        groups=tuple(
            _decode_group(batch, group, starts, block_size, dtype)
            for group in _groups(decodes, batch.context_lens, budget)
        ),
        tile_mask=_tile_mask(chunks, dtype, keys.device),
    )


def _groups(sequences: list[int], context_lens: tuple[int, ...], budget: int) -> Iterator[list[int]]:
    """Splits sequences, shortest first, so that each group, padded, has at most `budget` keys or one member."""
    group: list[int] = []
    for i in sorted(sequences, key=context_lens.__getitem__):
        if group and (len(group) + 1) * context_lens[i] > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _decode_group(
    batch: ForwardBatch, sequences: list[int], starts: list[int], block_size: int, dtype: torch.dtype
) -> DecodeGroup:
    device = batch.slot_mapping.device
    lens = [batch.context_lens[i] for i in sequences]
    mask = None
    if lens[0] != lens[-1]:
        beyond = torch.arange(lens[-1], device=device) >= torch.tensor(lens, device=device).unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(beyond, -torch.inf)[:, None, None]
    return DecodeGroup(
        rows=torch.tensor([starts[i] for i in sequences], device=device),
        slots=_slots(batch.block_tables[sequences], lens, block_size),
        mask=mask,
    )


def _slots(block_tables: torch.Tensor, lens: list[int], block_size: int) -> torch.Tensor:
    """Cache slots of each sequence's keys, `[S * max(lens)]`.

    The padding repeats the sequence's last key: slots that nobody wrote could hold a NaN, which no mask removes.
    """
    last = torch.tensor(lens, device=block_tables.device).unsqueeze(1) - 1
    index = torch.minimum(torch.arange(max(lens), device=block_tables.device), last)
    blocks = block_tables.gather(1, index // block_size)
    return (blocks * block_size + index % block_size).flatten()


def _tile_mask(chunks: list[PrefillChunk], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    continued = [chunk for chunk in chunks if chunk.context_len > chunk.query_len]
    if not continued:
        return None
    rows = min(_TILE_ROWS, max(chunk.query_len for chunk in continued))
    keys = max(chunk.context_len for chunk in continued)
    return torch.full((rows, keys), -torch.inf, dtype=dtype, device=device).triu_(keys - rows + 1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.head_dim, self.kv_heads = config.head_dim, config.num_kv_heads
        self.heads_per_kv = config.num_heads // config.num_kv_heads
        query_size, kv_size = config.num_heads * self.head_dim, config.num_kv_heads * self.head_dim
        self.qkv_proj = Linear(
            config.hidden_size,
            query_size + 2 * kv_size,
            bias=config.attention_bias,
            parts={"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size},
        )
        self.o_proj = Linear(query_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden: torch.Tensor, rotation: Rotation, plan: AttentionPlan, kv_cache: KVCache) -> torch.Tensor:
        """`[T, hidden]` to the same shape; writes the rows' keys and values into `kv_cache`."""
        heads = self.qkv_proj(hidden).view(len(hidden), -1, self.head_dim)
        query, key, value = heads.split((self.kv_heads * self.heads_per_kv, self.kv_heads, self.kv_heads), dim=1)
        query, key = self.normalize(query, key)
        query, key = rotation.apply(query), rotation.apply(key)
        out = paged_attention(query, key, value, plan, kv_cache)
        result: torch.Tensor = self.o_proj(out.flatten(1))
        return result

    def normalize(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a subclass does to `[T, heads, D]` queries and keys before they are rotated."""
        return query, key


class QKNormAttention(Attention):
    """Qwen3's attention: queries and keys are normalised head by head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def normalize(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.q_norm(query), self.k_norm(key)


def paged_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan, kv_cache: KVCache
) -> torch.Tensor:
    """Writes the step's keys and values, then attends.

    Args:
        query: `[T, KV * G, D]`, the heads of one key-value head one after another.
        key, value: `[T, KV, D]`.
        kv_cache: keys and values, each `[num_blocks, block_size, KV, D]`.

    Returns:
        `[T, KV * G, D]`.
    """
    keys, values = (cache.view(-1, *cache.shape[2:]) for cache in kv_cache)
    keys.index_copy_(0, plan.slot_mapping, key)
    values.index_copy_(0, plan.slot_mapping, value)
    grouped = query.view(len(query), key.shape[1], -1, key.shape[2])  # [T, KV, G, D]
    out = torch.empty_like(grouped)
    for chunk in plan.chunks:
        rows = slice(chunk.start, chunk.start + chunk.query_len)
        if chunk.context_len == chunk.query_len:
            out[rows] = _attend(grouped[rows], key[rows], value[rows], None)
        else:
            context = keys.index_select(0, chunk.slots), values.index_select(0, chunk.slots)
            assert plan.tile_mask is not None
            _attend_tiles(out[rows], grouped[rows], *context, plan.tile_mask)
    for group in plan.groups:
        size = len(group.rows)
        # one query row a sequence: [S, KV, G, D] against [S, KV, L, D], all G heads of a key-value head at once
        context_keys = keys.index_select(0, group.slots).view(size, -1, *key.shape[1:]).transpose(1, 2)
        context_values = values.index_select(0, group.slots).view(size, -1, *key.shape[1:]).transpose(1, 2)
        out[group.rows] = F.scaled_dot_product_attention(
            grouped[group.rows], context_keys, context_values, attn_mask=group.mask
        )
    return out.flatten(1, 2)


def _attend_tiles(
    out: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> None:
    """A chunk with earlier context, written to `out`: `[n, KV, G, D]` against `[L, KV, D]`, aligned at their ends."""
    earlier = len(keys) - len(query)
    for start in range(0, len(query), len(mask)):
        end = min(start + len(mask), len(query))
        tile_mask = mask[len(mask) - (end - start) :, mask.shape[1] - (earlier + end) :]
        out[start:end] = _attend(query[start:end], keys[: earlier + end], values[: earlier + end], tile_mask)


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One sequence: `[n, KV, G, D]` against `[L, KV, D]`; without a mask, causal with n = L.

    Key-value heads stand in for the batch and their query heads for the heads: the keys are expanded without a copy.
    (`enable_gqa` is many times slower on a CPU in bfloat16.)
    """
    groups = query.shape[2]
    result = F.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),  # [KV, G, n, D]
        keys.transpose(0, 1).unsqueeze(1).expand(-1, groups, -1, -1),  # [KV, G, L, D]
        values.transpose(0, 1).unsqueeze(1).expand(-1, groups, -1, -1),
        attn_mask=mask,
        is_causal=mask is None,
    )
    return result.permute(2, 0, 1, 3)
