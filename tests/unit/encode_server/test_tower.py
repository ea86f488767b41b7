from __future__ import annotations

import threading

import pytest
import torch
from prometheus_client import CollectorRegistry

from common.errors import InternalError
from common.processing import Grid
from encode_server.batcher import Batcher, Failed, Finished, Job, JobEvent, Stopped, TensorReady
from encode_server.metrics import EncodeMetrics
from encode_server.tower import Tower
from tests.encode_stubs import MERGE, PATCH_DIM, POISON, WAIT, StubTower, embedding, layout, make_encoder


class Rig:
    """A tower thread over a stub, and what its jobs report."""

    def __init__(self, max_batch_patches: int = 64) -> None:
        self.stub = StubTower()
        self.batcher = Batcher(max_batch_patches)
        self.metrics = EncodeMetrics()
        self.broken = threading.Event()
        self.tower = Tower(
            make_encoder(self.stub), self.batcher, self.metrics, on_batch=lambda: None, on_broken=self.broken.set
        )
        self.events: dict[str, list[JobEvent]] = {}
        self._changed = threading.Condition()

    def start(self) -> None:
        self.tower.start()

    def put(self, name: str, value: float, grid: tuple[int, int, int] = (1, 4, 4)) -> Job:
        t, h, w = grid
        self.events[name] = []

        def report(event: JobEvent) -> None:
            with self._changed:
                self.events[name].append(event)
                self._changed.notify_all()

        job = Job(
            request_id=name,
            grid=Grid(t=t, h=h, w=w),
            pixels=torch.full((t * h * w, PATCH_DIM), value),
            layout=layout(t * h * w // MERGE**2),
            memory=memoryview(bytearray(layout(t * h * w // MERGE**2).total_bytes)),
            report=report,
        )
        self.batcher.put(job)
        return job

    def last(self, name: str, kind: type[JobEvent]) -> JobEvent:
        """Waits until the job's latest event is of this kind."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.events[name] and isinstance(self.events[name][-1], kind), WAIT)
            return self.events[name][-1]

    def value(self, name: str) -> float:
        found = self.registry.get_sample_value(name)
        assert found is not None
        return found

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.registry


@pytest.fixture
def rig() -> object:
    rig = Rig()
    yield rig
    rig.stub.gate.set()
    rig.tower.stop()


def test_items_that_wait_share_a_batch_and_report_each_tensor_then_the_end(rig: Rig) -> None:
    first, second = rig.put("A", 1.0), rig.put("B", 2.0)
    rig.start()
    for name in "AB":
        assert isinstance(rig.last(name, Finished), Finished)
        assert rig.events[name][:-1] == [
            TensorReady(tensor=tensor) for tensor in ("deepstack.0", "deepstack.1", "deepstack.2", "main")
        ]
    assert rig.stub.batches == [[(1, 4, 4), (1, 4, 4)]]
    assert bytes(first.memory) == embedding(1.0, 4)
    assert bytes(second.memory) == embedding(2.0, 4)
    assert rig.value("epd_encodes_total") == 1
    assert rig.value("epd_encode_batch_items_sum") == 2
    assert rig.value("epd_encode_batch_patches_sum") == 32


def test_of_a_failing_batch_only_the_item_fails_that_fails_alone(rig: Rig) -> None:
    jobs = {name: rig.put(name, value) for name, value in (("A", 1.0), ("bad", POISON), ("C", 3.0))}
    rig.start()
    rig.last("A", Finished)
    rig.last("C", Finished)
    rig.last("bad", Stopped)
    failed = rig.events["bad"][-2]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InternalError)
    assert bytes(jobs["C"].memory) == embedding(3.0, 4)
    assert not rig.broken.is_set()
    rig.put("later", 4.0)
    rig.last("later", Finished)


def test_a_failed_cut_of_a_video_takes_the_rest_of_it_along(rig: Rig) -> None:
    rig.put("video", POISON, (9, 4, 4))
    rig.start()
    rig.last("video", Stopped)
    assert [type(event) for event in rig.events["video"]] == [Failed, Stopped]
    assert rig.batcher.waiting_patches == 0
    rig.put("other", 1.0)
    rig.last("other", Finished)


def test_a_video_is_ready_when_its_last_cut_is(rig: Rig) -> None:
    job = rig.put("video", 2.0, (9, 4, 4))
    rig.start()
    rig.last("video", Finished)
    assert len(rig.stub.batches) == 3
    assert len(rig.events["video"]) == 5
    assert bytes(job.memory) == embedding(2.0, 36)


def test_a_device_that_fails_on_everything_is_reported(rig: Rig) -> None:
    rig.start()
    rig.stub.broken = True
    rig.put("A", 1.0)
    rig.last("A", Stopped)
    assert rig.broken.wait(WAIT)


def test_cancelled_while_running_is_let_go_afterwards_and_not_before(rig: Rig) -> None:
    rig.start()
    rig.stub.gate.clear()
    job = rig.put("A", 1.0)
    assert rig.stub.entered.acquire(timeout=WAIT)
    assert not rig.batcher.cancel(job)
    assert not any(isinstance(event, Stopped) for event in rig.events["A"])
    rig.stub.gate.set()
    rig.last("A", Stopped)


def test_speed_is_measured_before_the_first_item(rig: Rig) -> None:
    rig.start()
    assert rig.tower.patches_per_second > 1.0
