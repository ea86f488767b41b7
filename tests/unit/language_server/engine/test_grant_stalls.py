from __future__ import annotations

from language_server.engine.grant_stalls import GrantStalls


def test_items_that_wait_are_counted_once_and_their_time_adds_up() -> None:
    now = [100.0]
    stalls = GrantStalls(clock=lambda: now[0])
    stalls.update([])
    assert (stalls.count, stalls.seconds, stalls.waiting) == (0, 0.0, 0)
    stalls.update([b"a", b"b"])
    now[0] = 103.0
    stalls.update([b"a", b"b"])
    assert (stalls.count, stalls.seconds, stalls.waiting) == (2, 6.0, 2)
    now[0] = 104.0
    stalls.update([b"b"])
    assert (stalls.count, stalls.seconds, stalls.waiting) == (2, 8.0, 1)
    now[0] = 105.0
    stalls.update([])
    assert (stalls.count, stalls.seconds, stalls.waiting) == (2, 9.0, 0)
    now[0] = 200.0
    stalls.update([b"a"])  # it lost its room again; in between nobody waited
    assert (stalls.count, stalls.seconds, stalls.waiting) == (3, 9.0, 1)
