"""Which tokens grammars allow in a step, found out while the forward runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from language_server.engine.grammar import GrammarMatcher


class GrammarMasks:
    """One bit for each token and row of a step, in memory that is allocated once.

    llguidance releases the interpreter's lock while it computes, so one thread of Python is enough.
    """

    def __init__(self, *, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._vocab_size = vocab_size
        self._bits = np.zeros((max_rows, 4 * -(-vocab_size // 32)), dtype=np.uint8)
        # What a byte of 8 bits adds to the logits of its 8 tokens. [256, 8]
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        self._penalty = torch.zeros(256, 8).masked_fill(bits == 0, -torch.inf).to(device)
        self._thread = ThreadPoolExecutor(1, "grammar masks")
        self._rows: list[int] = []
        self._running: Future[None] | None = None
        self.seconds = 0.0
        self.waited_seconds = 0.0

    def start(self, matchers: Sequence[GrammarMatcher | None]) -> None:
        """Begins with the masks of a step; the matchers must not be fed before `apply` has been called."""
        assert self._running is None, "the masks of the last step were not applied"
        self._rows = [row for row, matcher in enumerate(matchers) if matcher is not None and matcher.active]
        active = [matcher for matcher in matchers if matcher is not None and matcher.active]
        if active:
            self._running = self._thread.submit(self._fill, active)

    def apply(self, logits: torch.Tensor) -> None:
        """Waits for the masks; sets what they do not allow in logits [R, vocab] to -inf."""
        if self._running is None:
            return
        started = time.monotonic()
        self._running.result()
        self._running = None
        self.waited_seconds += time.monotonic() - started
        bits = torch.from_numpy(self._bits[: len(self._rows)]).to(self._device)
        penalties = self._penalty[bits.long()].flatten(1)[:, : self._vocab_size]
        if len(self._rows) == len(logits):
            logits += penalties
        else:
            logits.index_add_(0, torch.tensor(self._rows, device=self._device), penalties)

    def _fill(self, matchers: Sequence[GrammarMatcher]) -> None:
        started = time.monotonic()
        for place, matcher in enumerate(matchers):
            matcher.fill(self._bits[place])
        self.seconds += time.monotonic() - started
