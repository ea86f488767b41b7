from __future__ import annotations

import asyncio

import pytest

from common.errors import OverloadedError, UnavailableError
from router.http.gate import Gate
from router.metrics import RouterMetrics


async def test_gate() -> None:
    gate = Gate(1, RouterMetrics())
    async with asyncio.timeout(None) as limit:
        with gate.enter(limit), pytest.raises(OverloadedError), gate.enter(limit):
            pass
        assert gate.running == 0
        await asyncio.wait_for(gate.drain(60.0), 1)
        with pytest.raises(UnavailableError), gate.enter(limit):
            pass


async def test_what_outlasts_a_drain_expires() -> None:
    gate = Gate(1, RouterMetrics())
    entered = asyncio.Event()

    async def work() -> None:
        async with asyncio.timeout(None) as limit:
            with gate.enter(limit):
                entered.set()
                await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    await asyncio.wait_for(gate.drain(0.01), 1)
    assert gate.closed
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(working, 1)
