"""What every way through the model gives back, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TOKENS = 96
# Below this the choice between two tokens is a matter of rounding.
NEAR_TIE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Text at temperature 0; `margin` is the smallest gap between the best two logits of its tokens, if known."""

    text: str
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many of `items` have the same text; those that differ, by place, and which of them were near-ties."""

    items: int
    different: tuple[int, ...]
    near_ties: tuple[int, ...]

    def __str__(self) -> str:
        same = self.items - len(self.different)
        return (
            f"{same} of {self.items} answers agree ({same / self.items:.1%}); of the {len(self.different)} others "
            f"{len(self.near_ties)} were decided by a margin under {NEAR_TIE}"
        )


def compare(reference: Sequence[Answer], texts: Sequence[str]) -> Agreement:
    """The reference's answers against others', in the same order."""
    pairs = list(zip(reference, texts, strict=True))
    different = tuple(index for index, (answer, text) in enumerate(pairs) if answer.text.strip() != text.strip())
    margins = {index: pairs[index][0].margin for index in different}
    near = tuple(index for index, margin in margins.items() if margin is not None and margin < NEAR_TIE)
    return Agreement(items=len(pairs), different=different, near_ties=near)
