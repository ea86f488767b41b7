"""The prefix cache: what is shared, what is not, what is copied, and what is forgotten first."""

from __future__ import annotations

import numpy as np
import pytest

from language_server.engine.block_manager import BlockManager
from language_server.engine.request import Request, Span
from language_server.engine.sampling_params import SamplingParams


def request(ids: list[int], *, salt: bytes = b"", spans: tuple[Span, ...] = ()) -> Request:
    return Request(
        handle=1,
        request_id="",
        arrival=0,
        salt=salt,
        prompt_ids=ids,
        spans=spans,
        sampling=SamplingParams(max_tokens=8),
        positions=np.zeros((3, len(ids)), dtype=np.int64),
        position_delta=0,
    )


def compute(blocks: BlockManager, request: Request) -> None:
    """As the engine does for a whole prompt in one chunk."""
    start = request.computed
    blocks.allocate(request, blocks.needed(request, request.num_tokens))
    request.computed = request.num_tokens
    blocks.register(request, start)


@pytest.fixture
def blocks() -> BlockManager:
    return BlockManager(num_blocks=8, block_size=4)


def test_full_blocks_are_shared_and_one_token_is_left(blocks: BlockManager) -> None:
    first = request(list(range(10)))
    compute(blocks, first)
    second = request([*range(8), 99])
    assert blocks.extend_hit(second) is None
    assert second.computed == 8
    assert second.block_table == first.block_table[:2]
    assert blocks.used == 3


def test_a_full_hit_copies_the_last_block(blocks: BlockManager) -> None:
    first = request(list(range(8)))
    compute(blocks, first)
    second = request(list(range(8)))
    assert blocks.extend_hit(second, may_copy=False) is None
    assert (second.computed, blocks.hit_tokens) == (4, 4)
    copy = blocks.extend_hit(second)
    assert blocks.hit_tokens == 7, "also what was found later"
    assert copy == (first.block_table[1], second.block_table[1])
    assert second.block_table[0] == first.block_table[0]
    assert second.computed == 7
    blocks.check([first, second])


def test_blocks_outlive_their_request_until_they_are_needed(blocks: BlockManager) -> None:
    first = request(list(range(8)))
    compute(blocks, first)
    blocks.release(first)
    assert blocks.used == 0
    second = request([*range(8), 9])
    blocks.extend_hit(second)
    assert second.computed == 8
    blocks.release(second)
    hog = request(list(range(100, 132)))
    compute(blocks, hog)
    third = request([*range(8), 9])
    blocks.extend_hit(third)
    assert third.computed == 0
    assert blocks.evictions == 2


def test_the_end_of_a_prefix_is_forgotten_before_its_beginning(blocks: BlockManager) -> None:
    first = request(list(range(16)))
    compute(blocks, first)
    blocks.release(first)
    hog = request(list(range(100, 124)))  # 4 blocks were never used, 2 have to be evicted
    compute(blocks, hog)
    second = request(list(range(17)))
    blocks.extend_hit(second)
    assert second.computed == 8


@pytest.mark.parametrize(
    "other",
    [
        {"salt": b"tenant"},
        {"spans": ()},
        {"spans": (Span(key=b"b" * 32, row_offset=0, rows=3, token_offset=1, grid=(1, 3, 1), item_rows=6),)},
        {"spans": (Span(key=b"a" * 32, row_offset=3, rows=3, token_offset=1, grid=(1, 3, 1), item_rows=6),)},
        {"spans": (Span(key=b"a" * 32, row_offset=0, rows=2, token_offset=2, grid=(1, 2, 1), item_rows=6),)},
    ],
)
def test_tenant_item_row_and_place_are_part_of_the_identity(blocks: BlockManager, other: dict[str, object]) -> None:
    span = Span(key=b"a" * 32, row_offset=0, rows=3, token_offset=1, grid=(1, 3, 1), item_rows=6)
    first = request(list(range(9)), spans=(span,))
    compute(blocks, first)
    same = request(list(range(9)), spans=(span,))
    blocks.extend_hit(same)
    assert same.computed == 8
    different = request(list(range(9)), **{"spans": (span,), **other})
    blocks.extend_hit(different)
    assert different.computed == 0


def test_without_prefix_caching_nothing_is_shared() -> None:
    blocks = BlockManager(num_blocks=8, block_size=4, prefix_caching=False)
    first = request(list(range(8)))
    compute(blocks, first)
    second = request([*range(8), 9])
    assert blocks.extend_hit(second) is None
    assert second.computed == 0
