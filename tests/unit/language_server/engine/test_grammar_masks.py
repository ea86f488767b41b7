from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch

from language_server.engine.grammar_masks import GrammarMasks

VOCAB = 77  # neither whole words nor whole bytes


class StubMatcher:
    """Allows what it is told to."""

    def __init__(self, *allowed: int, active: bool = True) -> None:
        self.allowed = allowed
        self.active = active

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        bits = np.zeros(mask.nbytes * 8, dtype=np.uint8)
        bits[list(self.allowed)] = 1
        mask[:] = np.packbits(bits, bitorder="little")


@pytest.mark.parametrize(
    "matchers",
    [
        [StubMatcher(0, 7, 8, 31, 32, 76)],
        [StubMatcher(3), StubMatcher(4, 70)],
        [None, StubMatcher(3), None, StubMatcher(4, 70)],
        [StubMatcher(5, active=False), StubMatcher(6)],
        [None, None],
        [],
    ],
    ids=str,
)
def test_rows_keep_what_their_matchers_allow(matchers: list[StubMatcher | None]) -> None:
    masks = GrammarMasks(max_rows=4, vocab_size=VOCAB, device=torch.device("cpu"))
    for _ in range(2):  # the memory is used again
        logits = torch.arange(len(matchers) * VOCAB, dtype=torch.float32).view(-1, VOCAB)
        masks.start(matchers)  # type: ignore[arg-type]
        changed = logits.clone()
        masks.apply(changed)
        for row, matcher in enumerate(matchers):
            bound = matcher is not None and matcher.active
            allowed = list(matcher.allowed) if bound else list(range(VOCAB))  # type: ignore[union-attr]
            assert changed[row].isfinite().nonzero().flatten().tolist() == sorted(allowed)
            assert torch.equal(changed[row, allowed], logits[row, allowed])


class SlowMatcher(StubMatcher):
    def __init__(self, *allowed: int) -> None:
        super().__init__(*allowed)
        self.begun, self.may_end = threading.Event(), threading.Event()

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        self.begun.set()
        assert self.may_end.wait(20)
        super().fill(mask)


def test_they_are_made_meanwhile() -> None:
    masks = GrammarMasks(max_rows=1, vocab_size=VOCAB, device=torch.device("cpu"))
    slow = SlowMatcher(3)
    masks.start([slow])  # type: ignore[list-item]
    assert slow.begun.wait(20)  # here the forward runs, and nobody waits
    slow.may_end.set()
    logits = torch.zeros(1, VOCAB)
    masks.apply(logits)
    assert logits.isfinite().nonzero().tolist() == [[0, 3]]


def test_the_time_is_counted() -> None:
    masks = GrammarMasks(max_rows=1, vocab_size=VOCAB, device=torch.device("cpu"))
    masks.start([None])
    masks.apply(torch.zeros(1, VOCAB))
    assert masks.seconds == masks.waited_seconds == 0
    masks.start([StubMatcher(1)])  # type: ignore[list-item]
    masks.apply(torch.zeros(1, VOCAB))
    assert masks.seconds > 0
    assert masks.waited_seconds > 0
