"""Log probabilities for the caller's eyes: the model's own, before anything was done to its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from common.pb import language_pb2 as pb

_SLICE_ROWS = 64  # at once: 39 MB of logits with a vocabulary of 151k


def token_logprobs(logprobs: torch.Tensor, token_ids: Sequence[int], top: Sequence[int]) -> list[pb.TokenLogprobs]:
    """What is told about each token: its own log probability, its rank, and the likeliest ones in its place.

    Args:
        logprobs: [N, vocab] float32, natural logarithms.
        token_ids: [N].
        top: [N] how many of the likeliest are wanted.
    """
    ids = torch.tensor(token_ids, dtype=torch.int64, device=logprobs.device)[:, None]
    own = logprobs.gather(-1, ids)
    ranks = 1 + (logprobs > own).count_nonzero(dim=-1)
    best, best_ids = logprobs.topk(min(max(top), logprobs.shape[-1]), dim=-1)
    rows = zip(own.squeeze(-1).tolist(), ranks.tolist(), best.tolist(), best_ids.tolist(), top, strict=True)
    return [
        pb.TokenLogprobs(logprob=value, rank=rank, top_ids=ids[:count], top_logprobs=values[:count])
        for value, rank, values, ids, count in rows
    ]


def prompt_logprobs(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], token_ids: Sequence[int], top: int
) -> Iterator[pb.TokenLogprobs]:
    """The same for tokens of a prompt, a slice of rows at a time.

    Args:
        hidden: [N, hidden] of the rows before the tokens.
        head: hidden states to logits [n, vocab].
    """
    for start in range(0, len(token_ids), _SLICE_ROWS):
        ids = token_ids[start : start + _SLICE_ROWS]
        logprobs = head(hidden[start : start + len(ids)]).log_softmax(dim=-1)
        yield from token_logprobs(logprobs, ids, [top] * len(ids))
