from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.models.mrope import mrope_positions
from tests.random_prompts import Span


def test_text_counts_up_on_all_axes() -> None:
    positions, delta = mrope_positions(4, [], 2)
    assert positions.dtype == np.int64
    assert positions.tolist() == [[0, 1, 2, 3]] * 3
    assert delta == 0


def test_an_image_starts_after_the_text_and_the_text_after_its_longer_side() -> None:
    positions, delta = mrope_positions(11, [Span(token_offset=3, rows=6, grid=(1, 4, 6))], 2)
    assert positions.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]
    assert delta == -3  # output token 0 is at 8, not 11


def test_a_videos_temporal_patches_are_spans_of_their_own() -> None:
    spans = [Span(token_offset=1, rows=1, grid=(1, 2, 2)), Span(token_offset=4, rows=1, grid=(1, 2, 2))]
    positions, delta = mrope_positions(6, spans, 2)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    assert delta == 0


def test_adjacent_spans_and_no_text() -> None:
    spans = [Span(token_offset=0, rows=2, grid=(1, 2, 4)), Span(token_offset=2, rows=1, grid=(1, 2, 2))]
    positions, delta = mrope_positions(3, spans, 2)
    assert positions.tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]]
    assert delta == 0


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([Span(token_offset=0, rows=5, grid=(1, 4, 4))], "5 rows has grid"),
        ([Span(token_offset=7, rows=4, grid=(1, 4, 4))], "7 to 11 in a prompt of 10"),
        (
            [Span(token_offset=4, rows=1, grid=(1, 2, 2)), Span(token_offset=4, rows=1, grid=(1, 2, 2))],
            "4 to 5 in a prompt of 10, after token 5",
        ),
    ],
)
def test_spans_that_do_not_fit(spans: list[Span], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mrope_positions(10, spans, 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)), max_size=5), st.integers(0, 5))
def test_decoding_goes_on_after_the_last_position(parts: list[tuple[int, int, int]], tail: int) -> None:
    spans, length = [], 0
    for text, h, w in parts:
        spans.append(Span(token_offset=length + text, rows=h * w, grid=(1, 2 * h, 2 * w)))
        length += text + h * w
    positions, delta = mrope_positions(length + tail, spans, 2)
    if length + tail:
        assert positions.max() + 1 == length + tail + delta
    for span in spans:
        rows = positions[:, span.token_offset : span.token_offset + span.rows]
        assert len({tuple(column) for column in rows.T}) == span.rows
