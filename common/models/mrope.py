"""Multimodal rotary positions: a (temporal, height, width) triple for each token of a prompt.

Text advances all three axes together. The rows of a visual span all start from the position p that follows the text
before it, and count up from there along their own axis; what follows the span goes on at p + max(h, w):

    token      a    b    [ 2 x 3 rows of an image ]    c    d
    temporal   0    1    2   2   2   2   2   2         5    6
    height     0    1    2   2   2   3   3   3         5    6
    width      0    1    2   3   4   2   3   4         5    6

So a prompt's last position is not its length less one; `delta` is the difference, and decoding goes on from it.
Source: Qwen2-VL (arXiv 2409.12191), section 2.1; Qwen3-VL gives each temporal patch of a video its own span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class VisualSpan(Protocol):
    """A run of placeholder tokens; an image has one, a video one for each temporal patch."""

    @property
    def token_offset(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) in vision patches, before the spatial merge."""
        ...


def mrope_positions(prompt_len: int, spans: Sequence[VisualSpan], merge: int) -> tuple[NDArray[np.int64], int]:
    """Positions of a prompt's tokens.

    Args:
        prompt_len: tokens of the prompt, placeholders included.
        spans: the runs of placeholders in prompt order.
        merge: vision patches along each side of one visual token.

    Returns:
        positions: `[3, prompt_len]` int64, rows temporal, height and width.
        delta: the position of output token k is `prompt_len + k + delta` on all three axes.

    Raises:
        ValueError: spans overlap, are out of order or outside the prompt, or a grid does not have the span's rows.
    """
    positions = np.empty((3, prompt_len), dtype=np.int64)
    token, position = 0, 0
    for span in spans:
        start, end = span.token_offset, span.token_offset + span.rows
        t, h, w = span.grid[0], span.grid[1] // merge, span.grid[2] // merge
        if t * h * w != span.rows:
            raise ValueError(
                f"a span of {span.rows} rows has grid {span.grid}, which makes {t * h * w} after the merge"
            )
        if start < token or end > prompt_len:
            raise ValueError(f"span of tokens {start} to {end} in a prompt of {prompt_len}, after token {token}")
        text = start - token
        positions[:, token:start] = np.arange(position, position + text)
        position += text
        positions[:, start:end] = np.indices((t, h, w)).reshape(3, -1) + position
        position += max(h, w)
        token = end
    positions[:, token:] = np.arange(position, position + prompt_len - token)
    return positions, position - token
