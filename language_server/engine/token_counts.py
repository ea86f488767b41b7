"""Which tokens a request has, and how often its output has them: what penalties are about."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Distinct tokens in order of their first occurrence, kept up to date token by token.

    Args:
        prompt_ids: counted as 0; empty for penalties that look at the output only.
        max_outputs: how many tokens will be added at most.
    """

    def __init__(self, prompt_ids: Iterable[int], *, max_outputs: int) -> None:
        self._places = {token: place for place, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = np.zeros(len(self._places) + max_outputs, dtype=np.int64)
        self._ids[: len(self._places)] = list(self._places)
        self._counts = np.zeros(len(self._ids), dtype=np.float32)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """[n]"""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """[n]: occurrences in the output."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """One more token of the output."""
        place = self._places.setdefault(token, len(self._places))
        self._ids[place] = token
        self._counts[place] += 1
