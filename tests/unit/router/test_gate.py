from __future__ import annotations

import asyncio

import pytest

from common.errors import OverloadedError, UnavailableError
from router.gate import Gate
from router.metrics import RouterMetrics


async def test_gate() -> None:
    gate = Gate(1, RouterMetrics())
    with gate.enter(), pytest.raises(OverloadedError), gate.enter():
        pass
    await asyncio.wait_for(gate.empty(), 1)
    gate.draining = True
    with pytest.raises(UnavailableError), gate.enter():
        pass
