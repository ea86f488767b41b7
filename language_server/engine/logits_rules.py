"""What a request wants changed in its logits before a token is drawn: penalties, bias, and tokens that must not come.

In this order:

    repetition_penalty   x / p if x is over zero, else x * p, for tokens of prompt and output (CTRL, arXiv:1909.05858)
    frequency, presence  x - frequency * count - presence, for tokens of the output (OpenAI's API reference)
    logit_bias           x + bias
    allowed_token_ids    all others: -inf
    bad_words            the token that would complete one: -inf
    min_tokens           before so many are made, what ends the output: -inf

Only the tokens that are concerned are touched, for all requests of a step at once. A step whose requests want none of
it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from language_server.engine.sampling_params import SamplingParams
from language_server.engine.token_counts import TokenCounts

_Ids = npt.NDArray[np.int64]


class LogitsRules:
    """One request's rules, and the counts that they need. Output tokens have to be added as they are made."""

    def __init__(self, sampling: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self.repetition_penalty = sampling.repetition_penalty
        self.frequency_penalty = sampling.frequency_penalty
        self.presence_penalty = sampling.presence_penalty
        self.counts: TokenCounts | None = None
        if sampling.repetition_penalty != 1 or sampling.frequency_penalty or sampling.presence_penalty:
            known = prompt_ids if sampling.repetition_penalty != 1 else ()
            self.counts = TokenCounts(known, max_outputs=sampling.max_tokens)
        self.bias_ids: _Ids = np.array([token for token, _ in sampling.logit_bias], dtype=np.int64)
        self.biases = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        self.allowed: _Ids = np.array(sampling.allowed_token_ids, dtype=np.int64)
        self._always_banned = [word[0] for word in sampling.bad_words if len(word) == 1]
        self._sequences = [word for word in sampling.bad_words if len(word) > 1]

    @staticmethod
    def of(sampling: SamplingParams, prompt_ids: Sequence[int]) -> LogitsRules | None:
        """None when the request wants nothing of all this."""
        wants = (
            sampling.repetition_penalty != 1,
            sampling.frequency_penalty,
            sampling.presence_penalty,
            sampling.logit_bias,
            sampling.allowed_token_ids,
            sampling.bad_words,
            sampling.min_tokens,
        )
        return LogitsRules(sampling, prompt_ids) if any(wants) else None

    def add(self, token: int) -> None:
        """The output's next token."""
        if self.counts is not None:
            self.counts.add(token)

    def banned(self, output_ids: Sequence[int], *, may_end: bool) -> _Ids:
        """Tokens that must not come next. With `may_end`, min_tokens does not count."""
        banned = list(self._always_banned)
        for *prefix, last in self._sequences:
            # The output only: what the prompt ends in is not ours to complete.
            if output_ids and output_ids[-1] == prefix[-1] and output_ids[-len(prefix) :] == prefix:
                banned.append(last)
        if not may_end and len(output_ids) < self._sampling.min_tokens:
            banned += self._sampling.stop_token_ids
        return np.array(banned, dtype=np.int64)

    @property
    def exclusions(self) -> list[str]:
        """Names of the rules that can leave no token."""
        named = (
            ("allowed_token_ids", len(self.allowed)),
            ("bad_words", self._always_banned or self._sequences),
            ("min_tokens", self._sampling.min_tokens),
        )
        return [name for name, wanted in named if wanted]


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """The rules for one row of a step's logits, and what must not come there."""

    row: int
    rules: LogitsRules
    banned: _Ids


def apply_rules(logits: torch.Tensor, rows: Sequence[RowRules]) -> None:
    """Changes logits [R, vocab] in place."""
    if penalized := [(r.row, r.rules, r.rules.counts) for r in rows if r.rules.counts is not None]:
        places = _places(logits, [(row, counts.ids) for row, _, counts in penalized])
        sizes = [len(counts.ids) for _, _, counts in penalized]
        repetition, frequency, presence = (
            _tensor(logits, np.repeat(np.array(values, dtype=np.float32), sizes))
            for values in (
                [rules.repetition_penalty for _, rules, _ in penalized],
                [rules.frequency_penalty for _, rules, _ in penalized],
                [rules.presence_penalty for _, rules, _ in penalized],
            )
        )
        count = _tensor(logits, np.concatenate([counts.counts for _, _, counts in penalized]))
        values = logits[places]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[places] = values - frequency * count - presence * (count > 0)
    if biased := [r for r in rows if len(r.rules.bias_ids)]:
        places = _places(logits, [(r.row, r.rules.bias_ids) for r in biased])
        logits[places] += _tensor(logits, np.concatenate([r.rules.biases for r in biased]))
    if limited := [r for r in rows if len(r.rules.allowed)]:
        places = _places(logits, [(r.row, r.rules.allowed) for r in limited])
        kept = logits[places]
        logits[[r.row for r in limited]] = -torch.inf
        logits[places] = kept
    if banning := [r for r in rows if len(r.banned)]:
        logits[_places(logits, [(r.row, r.banned) for r in banning])] = -torch.inf


def _places(logits: torch.Tensor, parts: Sequence[tuple[int, _Ids]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns) of all the parts' tokens, one part after another."""
    rows = np.repeat(np.array([row for row, _ in parts]), [len(ids) for _, ids in parts])
    return _tensor(logits, rows), _tensor(logits, np.concatenate([ids for _, ids in parts]))


def _tensor(logits: torch.Tensor, values: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values).to(logits.device)
