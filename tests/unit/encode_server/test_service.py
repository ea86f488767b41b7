"""Health says whether work goes on, not only whether the process lives."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from common.rpc import HealthReporter
from encode_server.engine import EncodeEngine
from encode_server.metrics import EncodeMetrics
from encode_server.service import watch_progress
from tests.encode_stubs import WAIT, StubProcessor, StubTower, make_engine, media, opening


class StubHealth:
    def __init__(self) -> None:
        self.said: asyncio.Queue[bool] = asyncio.Queue()

        self.seconds_not_serving = 0.0

    async def set(self, serving: bool) -> None:
        self.seconds_not_serving = 0.0 if serving else 100.0
        self.said.put_nowait(serving)


async def give_work(engine: EncodeEngine, tower: StubTower) -> None:
    """An item on which the tower stops."""
    tower.gate.clear()
    data = media(1.0)
    claim = engine.join(opening(data))
    assert await engine.has_to_upload(claim)
    await engine.deliver(claim, [data])


@pytest.mark.parametrize("dies", [False, True])
async def test_a_tower_without_progress_is_not_serving_until_it_goes_on(dies: bool) -> None:
    tower, health = StubTower(), StubHealth()
    engine = make_engine(tower, StubProcessor(), EncodeMetrics())
    await engine.start()
    watching = asyncio.create_task(
        watch_progress(engine, cast(HealthReporter, health), stall_seconds=0.05, give_up_seconds=200.0)
    )
    try:
        await give_work(engine, tower)
        assert not await asyncio.wait_for(health.said.get(), WAIT)
        tower.broken = dies
        tower.gate.set()
        if dies:  # it ends, and the process with it
            await asyncio.wait_for(watching, WAIT)
            assert not [health.said.get_nowait() for _ in range(health.said.qsize())][-1]
        else:
            assert await asyncio.wait_for(health.said.get(), WAIT)
    finally:
        watching.cancel()
        tower.gate.set()
        await engine.stop()


async def test_a_tower_that_hangs_for_good_is_given_up() -> None:
    tower, health = StubTower(), StubHealth()
    engine = make_engine(tower, StubProcessor(), EncodeMetrics())
    await engine.start()
    try:
        await give_work(engine, tower)
        watching = watch_progress(engine, cast(HealthReporter, health), stall_seconds=0.05, give_up_seconds=99.0)
        assert (await asyncio.wait_for(watching, WAIT)).startswith("no progress for")
    finally:
        tower.gate.set()
        await engine.stop()
