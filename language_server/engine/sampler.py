"""From logits to token ids. The draw is counter-based: it depends on logits and (seed, choice, output index) only.

So it is the same in any batch, at any time and on any server, and a request that goes on elsewhere goes on exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import torch
import xxhash

from language_server.engine.request import Request, SamplingParams


def uniform(seed: int, choice: int, index: int) -> float:
    """The number in [0, 1) that draws output token `index`: 53 bits of XXH3-64 over the three counters."""
    return (xxhash.xxh3_64_intdigest(struct.pack("<QIQ", seed, choice, index)) >> 11) * 2.0**-53


class Sampler:
    """Draws one token for each row of logits; `banned` ids (visual placeholders) are never drawn."""

    def __init__(self, *, banned: Iterable[int], device: torch.device) -> None:
        self._banned = torch.tensor(sorted(banned), dtype=torch.int64, device=device)

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[int | None]:
        """The next token of each request; None where nothing can be drawn: logits that are no numbers, or all banned.

        Args:
            logits: [R, vocab] float32, overwritten.
            requests: [R].
        """
        if self._banned.numel():
            logits.index_fill_(1, self._banned, -torch.inf)
        for row, request in enumerate(requests):
            if len(request.output_ids) < request.sampling.min_tokens:
                logits[row, list(request.sampling.stop_token_ids)] = -torch.inf
        best, tokens = logits.max(dim=-1)
        sound = best.isfinite().tolist()
        drawn = [row for row, request in enumerate(requests) if sound[row] and request.sampling.temperature > 0]
        if drawn:
            rows = torch.tensor(drawn, device=logits.device)
            tokens[rows] = self._draw(logits[rows], [requests[row] for row in drawn])
        return [token if sound[row] else None for row, token in enumerate(tokens.tolist())]

    def _draw(self, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """Inverse transform sampling from what temperature, top-k, top-p and min-p leave, in that order. [R]."""
        params = [request.sampling for request in requests]
        column = _Columns(params, device=logits.device)
        # The maximum first: a low temperature would make infinities of logits that are not below it.
        logits = logits - logits.max(dim=-1, keepdim=True).values
        probabilities = torch.softmax(logits / column("temperature"), dim=-1)
        probabilities, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(probabilities.shape[-1], device=logits.device)
        top_k = column("top_k")
        probabilities = probabilities.where((top_k == 0) | (rank < top_k), 0.0)
        total = probabilities.sum(dim=-1, keepdim=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.where((before < column("top_p") * total) | (rank == 0), 0.0)
        probabilities = probabilities.where(probabilities >= column("min_p") * probabilities[:, :1], 0.0)
        draws = [
            uniform(p.seed, p.choice, len(request.output_ids)) for p, request in zip(params, requests, strict=True)
        ]
        cumulative = probabilities.cumsum(dim=-1)
        target = torch.tensor(draws, device=logits.device)[:, None] * cumulative[:, -1:]
        chosen = (cumulative <= target).sum(dim=-1, keepdim=True)
        # Rounding may put the target at the very end: the last token that is left, not one that was cut.
        last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
        return ids.gather(-1, torch.minimum(chosen, last)).squeeze(-1)


class _Columns:
    """Fields of SamplingParams as [R, 1] tensors."""

    def __init__(self, params: Sequence[SamplingParams], *, device: torch.device) -> None:
        self._params = params
        self._device = device

    def __call__(self, name: str) -> torch.Tensor:
        values = [float(getattr(p, name)) for p in self._params]
        return torch.tensor(values, dtype=torch.float32, device=self._device)[:, None]
