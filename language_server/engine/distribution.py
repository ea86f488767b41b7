"""Probabilities over a vocabulary: the likeliest of them, and the one that a number between 0 and 1 means.

A vocabulary has 150 000 tokens and there is one draw for each token of each request, so nothing here sorts it whole, or
sums it up one by one, where a part will do.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

_HEADS = (256, 8192)  # likeliest tokens among which top-p looks first, and then; most often the first are enough
_BLOCK = 1024  # tokens that are summed up together


def likeliest(probabilities: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """What top-k, then top-p leave of probabilities [R, vocab]; the rest is 0. Of equals the lowest ids stay.

    Args:
        probabilities: each row adds up to 1.
        top_k: [R, 1]; 0: off.
        top_p: [R, 1] of what top-k leaves; 1: off.
    """
    rows, vocab = probabilities.shape
    least = probabilities.new_zeros(rows, 1)  # of those that stay
    counts = torch.zeros_like(least, dtype=torch.int64)
    pending = torch.arange(rows, device=probabilities.device)
    for head in (*_HEADS, vocab):
        values = probabilities[pending].topk(min(vocab, max(head, int(top_k.max()))), dim=-1).values
        count, is_enough = _count(values, top_k[pending], top_p[pending])
        counts[pending], least[pending] = count, values.gather(1, count - 1)
        pending = pending[~is_enough.flatten()]
        if not len(pending):
            break
    kept = probabilities >= least
    tied = (kept.sum(-1, keepdim=True) > counts).flatten().nonzero().flatten()
    if len(tied):
        above = probabilities[tied] > least[tied]
        equal = probabilities[tied] == least[tied]
        room = counts[tied] - above.sum(-1, keepdim=True)
        kept[tied] = above | (equal & (equal.cumsum(-1) <= room))
    return probabilities.where(kept, 0.0)


def _count(values: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the likeliest stay, [R, 1], at least 1; and whether `values` [R, n], which descend, go that far."""
    in_k = (top_k == 0) | (torch.arange(values.shape[-1], device=values.device) < top_k)
    left = values.where(in_k, 0.0)
    up_to = left.cumsum(-1)  # one after another: the same sums whatever follows, so the same in any batch
    total = torch.where(top_k == 0, 1.0, up_to[:, -1:])
    in_p = (top_p >= 1) | (up_to - left < top_p * total)
    count = (in_k & in_p).sum(-1, keepdim=True).clamp(min=1)
    return count, (top_k > 0) | (up_to[:, -1:] >= top_p)


def token_at(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Inverse transform sampling over the tokens in order of their ids: [R].

    In this order rounding, which differs from batch to batch, only moves the borders between tokens by as little as
    itself. In order of probability it would swap nearly equal ones.

    Args:
        probabilities: [R, vocab], not all 0; they need not add up to 1.
        draws: [R, 1] float64, from 0 to below 1.
    """
    rows, vocab = probabilities.shape
    blocks = F.pad(probabilities, (0, -vocab % _BLOCK)).view(rows, -1, _BLOCK)
    up_to = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = _below(draws * up_to[:, -1:], up_to[:, -1:])
    block = torch.searchsorted(up_to, target, right=True)
    before = F.pad(up_to, (1, 0)).gather(1, block)
    inside = blocks[torch.arange(rows, device=blocks.device), block.flatten()].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inside, _below(target - before, inside[:, -1:]), right=True)
    return (block * _BLOCK + place).flatten()


def _below(target: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Rounding may put a target at the very end, where no token is."""
    return torch.minimum(target, end.nextafter(torch.zeros_like(end)))
