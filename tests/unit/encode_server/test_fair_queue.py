from __future__ import annotations

import pytest

from encode_server.fair_queue import FairQueue


def served(queue: FairQueue[str]) -> str:
    """The order in which entries come if each time the first head is taken."""
    order = ""
    while queue:
        request_id, entry = queue.heads()[0]
        queue.take(request_id, entry)
        order += entry
    return order


def test_requests_take_turns_each_in_its_own_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for request_id, entry in (("A", "a"), ("A", "b"), ("A", "c"), ("B", "x"), ("C", "1"), ("C", "2")):
        queue.push(request_id, entry)
    assert len(queue) == 6
    assert served(queue) == "ax1b2c"


def test_what_is_removed_costs_no_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for request_id, entry in (("A", "a"), ("A", "b"), ("B", "x"), ("B", "y")):
        queue.push(request_id, entry)
    queue.remove("A", "a")
    assert served(queue) == "bxy"


def test_an_entry_behind_the_head_can_be_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    for request_id, entry in (("A", "a"), ("A", "b"), ("B", "x")):
        queue.push(request_id, entry)
    queue.take("A", "b")
    assert served(queue) == "xa"


def test_what_is_not_there_can_not_be_removed() -> None:
    queue: FairQueue[str] = FairQueue()
    with pytest.raises(ValueError):
        queue.remove("A", "a")
