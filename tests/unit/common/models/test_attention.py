from __future__ import annotations

import math

import pytest
import torch

from common.models.attention import paged_attention, plan_attention
from common.models.config import TextConfig
from tests.paging import CachedSequence, PagedCache

KV, GROUPS, DIM = 4, 2, 64  # 2 KiB a key with its value
CONFIG = TextConfig(
    vocab_size=1,
    hidden_size=1,
    intermediate_size=1,
    num_layers=1,
    num_heads=KV * GROUPS,
    num_kv_heads=KV,
    head_dim=DIM,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    mrope_section=None,
    attention_bias=False,
    tie_word_embeddings=False,
    max_position_embeddings=1,
    moe=None,
)


def definition(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention of the last `len(query)` rows: `[n, KV * G, D]` over `[L, KV, D]`."""
    key, value = key.repeat_interleave(GROUPS, 1), value.repeat_interleave(GROUPS, 1)
    scores = torch.einsum("nhd,lhd->hnl", query, key) / math.sqrt(DIM)
    hidden = torch.ones(len(query), len(key), dtype=torch.bool).triu(len(key) - len(query) + 1)
    return torch.einsum("hnl,lhd->nhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), value)


class Story:
    """Sequences that grow step by step, with all their queries, keys and values."""

    def __init__(self, block_size: int) -> None:
        torch.manual_seed(0)
        self.cache = PagedCache(CONFIG, block_size=block_size, num_blocks=1200)
        self.sequences: dict[str, CachedSequence] = {}
        self.rows: dict[str, list[torch.Tensor]] = {}

    def step(self, **counts: int) -> None:
        """Gives each named sequence that many tokens and checks what attention says."""
        new = {name: torch.randn(count, (GROUPS + 2) * KV, DIM) for name, count in counts.items()}
        for name, rows in new.items():
            self.rows.setdefault(name, []).append(rows)
        chunks = [(self.sequences.setdefault(name, CachedSequence()), count) for name, count in counts.items()]
        batch = self.cache.batch(chunks)
        query, key, value = torch.cat(list(new.values())).split((KV * GROUPS, KV, KV), 1)
        out = paged_attention(query, key, value, plan_attention(batch, torch.float32), self.cache.layers[0])
        for name, result in zip(counts, out.split(list(counts.values())), strict=True):
            query, key, value = torch.cat(self.rows[name]).split((KV * GROUPS, KV, KV), 1)
            torch.testing.assert_close(result, definition(query[-counts[name] :], key, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_prefill_chunks_and_decodes_in_one_step(block_size: int) -> None:
    story = Story(block_size)
    story.step(a=5)
    story.step(a=1)
    story.step(a=1, b=7, c=1)
    story.step(b=4, a=1, c=1)
    story.step(c=1, a=1, b=1)


def test_tiles_of_a_long_chunk() -> None:
    story = Story(16)
    story.step(a=300)
    story.step(a=513, b=30)
    story.step(a=256, b=257)
    story.step(a=2, b=1)


def test_decodes_of_very_different_lengths() -> None:
    """More keys than the 2048 that one group of decodes gathers."""
    story = Story(16)
    story.step(long=1400, middle=900)
    story.step(middle=1)
    story.step(long=1, short=1, middle=1, new=1)
    story.step(new=1, middle=1)
