from __future__ import annotations

import pytest
from prometheus_client import Gauge

from common.errors import OverloadedError
from router.media.budget import ByteBudget, Hold


def test_budget() -> None:
    budget = ByteBudget(10, Gauge("bytes", "", registry=None))
    first, second = Hold(budget), Hold(budget)
    first.add(6)
    with pytest.raises(OverloadedError):
        second.add(5)
    second.add(4)
    first.remove(1)
    first.release()
    assert budget.used == 4
    second.release()
    assert budget.used == 0
