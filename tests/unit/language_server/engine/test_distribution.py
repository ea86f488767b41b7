"""Shortcuts through a vocabulary lead where the long way does."""

from __future__ import annotations

import pytest
import torch

from language_server.engine.distribution import likeliest, token_at

VOCAB = 5000
SHAPES = {"steep": 4.0, "usual": 1.0, "flat": 0.01}


def distributions(scale: float, rows: int, *, coarse: bool) -> torch.Tensor:
    """[rows, VOCAB]; coarse ones have many equals, as logits in bfloat16 have."""
    logits = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(3)) * scale
    return torch.softmax(logits.bfloat16().float() if coarse else logits, dim=-1)


def the_long_way(row: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Sorted whole; of equals the lowest ids come first."""
    values, ids = row.sort(descending=True, stable=True)
    values = values[: top_k or VOCAB]
    total = values.sum() if top_k else 1.0
    before = values.cumsum(0) - values
    count = max(1, int((before < top_p * total).sum())) if top_p < 1 else len(values)
    kept = torch.zeros_like(row)
    kept[ids[:count]] = row[ids[:count]]
    return kept


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_likeliest(shape: str, coarse: bool) -> None:
    """In one batch, and each alone."""
    wanted = [(0, 0.9), (20, 0.8), (1, 1.0), (0, 1e-9), (3000, 1.0), (3000, 0.5), (0, 0.9999), (VOCAB, 0.3), (7, 0.01)]
    rows = distributions(SHAPES[shape], len(wanted), coarse=coarse)
    top_k = torch.tensor([[float(k)] for k, _ in wanted])
    top_p = torch.tensor([[p] for _, p in wanted])
    together = likeliest(rows.clone(), top_k, top_p)
    for i, (k, p) in enumerate(wanted):
        expected = the_long_way(rows[i], k, top_p[i].item())
        difference = ((together[i] > 0) != (expected > 0)).sum()
        # a border of top-p may be off by the token that rounding decides about
        assert difference <= (p < 1), (k, p)
        assert torch.equal(likeliest(rows[i : i + 1], top_k[i : i + 1], top_p[i : i + 1])[0], together[i]), (k, p)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_token_of_a_draw(shape: str) -> None:
    rows = distributions(SHAPES[shape], 64, coarse=False)
    rows[:, ::3] = 0.0
    draws = torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cumulative = rows.cumsum(-1, dtype=torch.float64)
    expected = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True).flatten()
    assert torch.equal(token_at(rows, draws), expected)
    for draw in (0.0, 1 - 2.0**-53):
        ends = token_at(rows, torch.full((64, 1), draw, dtype=torch.float64))
        assert (rows.gather(1, ends[:, None]) > 0).all(), "nothing is drawn that has no chance"


def test_a_draw_from_one_token_only() -> None:
    rows = torch.zeros(3, VOCAB)
    for row, token in enumerate((0, 1024, VOCAB - 1)):
        rows[row, token] = 1e-30
    for draw in (0.0, 0.5, 1 - 2.0**-53):
        draws = torch.full((3, 1), draw, dtype=torch.float64)
        assert token_at(rows, draws).tolist() == [0, 1024, VOCAB - 1]
