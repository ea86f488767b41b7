"""From logits to token ids. The draw is counter-based: it depends on logits and (seed, choice, output index) only.

So it is the same in any batch, at any time and on any server, and a request that goes on elsewhere goes on exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

import torch
import xxhash

from common.errors import EPDError, InternalError, InvalidRequestError
from language_server.engine.distribution import likeliest, token_at
from language_server.engine.grammar_masks import GrammarMasks
from language_server.engine.logits_rules import RowRules, apply_rules
from language_server.engine.request import Request
from language_server.engine.sampling_params import SamplingParams

Draw = int | EPDError  # a token, or why there is none


def uniform(seed: int, choice: int, index: int) -> float:
    """The number in [0, 1) that draws output token `index`: 53 bits of XXH3-64 over the three counters."""
    return (xxhash.xxh3_64_intdigest(struct.pack("<QIQ", seed, choice, index)) >> 11) * 2.0**-53


class Sampler:
    """Draws one token for each row of logits; `banned` ids (visual placeholders) are never drawn."""

    def __init__(self, *, banned: Iterable[int], masks: GrammarMasks, device: torch.device) -> None:
        self._banned = torch.tensor(sorted(banned), dtype=torch.int64, device=device)
        self._masks = masks

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[Draw]:
        """The next token of each request, or the error that ends it:

        InvalidRequestError: what it asks for leaves no token, or its grammar can't be followed any further.
        InternalError: its logits are no numbers.

        Args:
            logits: [R, vocab] float32, overwritten.
            requests: [R]; those with grammars are what the masks were started for.
        """
        if self._banned.numel():
            logits.index_fill_(1, self._banned, -torch.inf)
        self._masks.apply(logits)
        apply_rules(logits, [_row_rules(row, request) for row, request in enumerate(requests) if request.rules])
        best, tokens = logits.max(dim=-1)
        sound = best.isfinite().tolist()
        drawn = [row for row, request in enumerate(requests) if sound[row] and request.sampling.temperature > 0]
        if drawn:
            rows = torch.tensor(drawn, device=logits.device)
            tokens[rows] = self._draw(logits[rows], [requests[row] for row in drawn])
        draws: list[Draw] = tokens.tolist()
        for row, request in enumerate(requests):
            if request.grammar is not None and (error := request.grammar.error) is not None:
                draws[row] = InvalidRequestError(f"the grammar can't be followed any further: {error}")
            elif not sound[row]:
                draws[row] = _no_token(best[row].item(), request)
        return draws

    def _draw(self, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """A token of what temperature, top-k, top-p and min-p leave, in that order. [R]."""
        params = [request.sampling for request in requests]
        column = _Columns(params, device=logits.device)
        # The maximum first: a low temperature would make infinities of logits that are not below it.
        logits = logits - logits.max(dim=-1, keepdim=True).values
        probabilities = torch.softmax(logits / column("temperature"), dim=-1)
        if filtered := [row for row, p in enumerate(params) if p.top_k or p.top_p < 1]:
            rows = torch.tensor(filtered, device=logits.device)
            probabilities[rows] = likeliest(probabilities[rows], column("top_k")[rows], column("top_p")[rows])
        if any(p.min_p for p in params):
            least = column("min_p") * probabilities.max(dim=-1, keepdim=True).values
            probabilities = probabilities.where(probabilities >= least, 0.0)
        draws = [
            uniform(p.seed, p.choice, len(request.output_ids)) for p, request in zip(params, requests, strict=True)
        ]
        return token_at(probabilities, torch.tensor(draws, dtype=torch.float64, device=logits.device)[:, None])


def _row_rules(row: int, request: Request) -> RowRules:
    assert request.rules is not None
    complete = request.grammar is not None and request.grammar.complete
    return RowRules(row=row, rules=request.rules, banned=request.rules.banned(request.output_ids, may_end=complete))


def _no_token(best: float, request: Request) -> EPDError:
    """Why the row's best logit is no number."""
    exclusions = request.rules.exclusions if request.rules is not None else []
    if request.grammar is not None and request.grammar.active:
        exclusions = [*exclusions, "grammar"]
    if best == -math.inf and exclusions:
        return InvalidRequestError(f"{' and '.join(exclusions)} leave no token that may come next")
    return InternalError("the model gave no usable probabilities for the next token")


class _Columns:
    """Fields of SamplingParams as [R, 1] tensors."""

    def __init__(self, params: Sequence[SamplingParams], *, device: torch.device) -> None:
        self._params = params
        self._device = device

    def __call__(self, name: str) -> torch.Tensor:
        values = [float(getattr(p, name)) for p in self._params]
        return torch.tensor(values, dtype=torch.float32, device=self._device)[:, None]
