from __future__ import annotations

import threading

import pytest
import torch

from common.processing import Grid
from encode_server.batcher import Batcher, Job, Piece, cut
from tests.encode_stubs import MERGE, PATCH_DIM, WAIT, layout


def job(request_id: str, grid: tuple[int, int, int] = (1, 4, 4)) -> Job:
    t, h, w = grid
    rows = t * h * w // MERGE**2
    return Job(
        request_id=request_id,
        grid=Grid(t=t, h=h, w=w),
        pixels=torch.arange(t * h * w).float().unsqueeze(1).expand(-1, PATCH_DIM),
        layout=layout(rows),
        memory=memoryview(bytearray(layout(rows).total_bytes)),
        report=lambda event: None,
    )


def names(batch: list[Piece] | None) -> list[str]:
    assert batch is not None
    return [piece.job.request_id for piece in batch]


def test_batches_go_round_the_requests_within_the_budget() -> None:
    batcher = Batcher(max_batch_patches=48)  # three items
    for request_id in "AAAABC":
        batcher.put(job(request_id))
    assert names(batcher.take()) == ["A", "B", "C"]
    assert names(batcher.take()) == ["A", "A", "A"]


def test_a_full_batch_still_goes_round_more_than_once() -> None:
    batcher = Batcher(max_batch_patches=64)
    for request_id in "AAAB":
        batcher.put(job(request_id))
    assert names(batcher.take()) == ["A", "B", "A", "A"]


def test_what_does_not_fit_stands_back_but_keeps_its_turn() -> None:
    batcher = Batcher(max_batch_patches=64)
    for request_id, grid in (("small", (1, 4, 4)), ("large", (1, 8, 8)), ("tiny", (1, 2, 2)), ("tiny", (1, 2, 2))):
        batcher.put(job(request_id, grid))
    assert names(batcher.take()) == ["small", "tiny", "tiny"]
    batcher.put(job("late"))
    assert names(batcher.take()) == ["large"]
    assert names(batcher.take()) == ["late"]


def test_one_frame_over_the_budget_runs_alone() -> None:
    batcher = Batcher(max_batch_patches=16)
    batcher.put(job("huge", (1, 8, 8)))
    batcher.put(job("next", (1, 2, 2)))
    assert names(batcher.take()) == ["huge"]
    assert names(batcher.take()) == ["next"]


def test_a_video_is_cut_between_temporal_patches_and_others_get_in_between() -> None:
    batcher = Batcher(max_batch_patches=48)
    video = job("video", (7, 4, 4))
    batcher.put(video)
    batcher.put(job("image"))
    assert [names(batcher.take()) for _ in range(3)] == [["video", "image"], ["video"], ["video"]]
    pieces = list(cut(video, 48))
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 2), (2, 4), (4, 7)]
    assert torch.equal(torch.cat([piece.pixels for piece in pieces]), video.pixels)
    assert [piece.rows for piece in pieces] == [slice(0, 8), slice(8, 16), slice(16, 28)]
    assert [piece.grid for piece in pieces] == [(2, 4, 4), (2, 4, 4), (3, 4, 4)]


def test_cancelled_work_leaves_before_it_runs() -> None:
    batcher = Batcher(max_batch_patches=16)
    doomed = job("A", (3, 4, 4))
    batcher.put(doomed)
    batcher.put(job("B"))
    assert batcher.cancel(doomed)
    assert batcher.waiting_patches == 16
    assert names(batcher.take()) == ["B"]


def test_work_that_is_cancelled_while_it_runs_is_let_go_at_the_end_of_the_batch() -> None:
    batcher = Batcher(max_batch_patches=16)
    doomed = job("A", (3, 4, 4))
    batcher.put(doomed)
    batch = batcher.take()
    assert batch is not None
    assert not batcher.cancel(doomed)
    assert batcher.waiting_patches == 0  # its other pieces are gone
    assert batcher.finish(batch) == [doomed]


def test_work_is_estimated_with_the_running_batch_included() -> None:
    batcher = Batcher(max_batch_patches=16)
    assert batcher.seconds_of_work(10.0) == 0.0
    for request_id in "AB":
        batcher.put(job(request_id))
    assert batcher.seconds_of_work(10.0) == pytest.approx(3.2)
    batch = batcher.take()
    assert batch is not None
    assert 1.6 < batcher.seconds_of_work(10.0) <= 3.2
    batcher.finish(batch)
    assert batcher.seconds_of_work(10.0) == pytest.approx(1.6)


def test_a_batcher_without_work_is_not_stuck() -> None:
    batcher = Batcher(max_batch_patches=16)
    assert batcher.seconds_without_progress() == 0.0
    batcher.put(job("A"))
    assert batcher.seconds_without_progress() > 0.0
    batch = batcher.take()
    assert batch is not None
    assert batcher.seconds_without_progress() > 0.0
    batcher.finish(batch)
    assert batcher.seconds_without_progress() == 0.0


def test_take_waits_for_work_and_ends_when_closed() -> None:
    batcher = Batcher(max_batch_patches=16)
    taken: list[list[str]] = []

    def run() -> None:
        while (batch := batcher.take()) is not None:
            taken.append(names(batch))
            batcher.finish(batch)
            batcher.close()

    thread = threading.Thread(target=run)
    thread.start()
    batcher.put(job("A"))
    thread.join(WAIT)
    assert not thread.is_alive()
    assert taken == [["A"]]
