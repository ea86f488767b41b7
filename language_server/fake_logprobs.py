"""Made-up log probabilities: the same for the same token everywhere, and well formed.

The r-th likeliest token has -0.7 r, so that all together stay below 1. A token's rank is 1, 2 or 3, by its id, and its
neighbours in the vocabulary are its neighbours in rank; so it is now and then not among the likeliest that are shown.
"""

from __future__ import annotations

from common.pb import language_pb2 as pb


def fake_logprobs(token: int, *, top: int, vocab_size: int) -> pb.TokenLogprobs:
    """What is told about `token`, with the `top` likeliest in its place."""
    rank = 1 + token % 3
    ranks = range(1, 1 + min(top, vocab_size))
    return pb.TokenLogprobs(
        logprob=-0.7 * rank,
        rank=rank,
        top_ids=[(token + other - rank) % vocab_size for other in ranks],
        top_logprobs=[-0.7 * other for other in ranks],
    )
