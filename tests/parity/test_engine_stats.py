"""What metrics look for, the engine counts: under a name that it does not know they would show zero for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.pb import language_pb2 as pb
from language_server.engine import grammar_compiler
from tests.checkpoints import write_checkpoint
from tests.engine_driver import EngineDriver
from tests.engine_values import shown_values


def test_the_engine_has_a_value_for_all_that_metrics_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values appear when they are counted first, so everything has to happen once that requests can bring about."""
    monkeypatch.setattr(grammar_compiler, "_MOST_KNOWN", 1)
    driver = EngineDriver(write_checkpoint(tmp_path / "moe", "moe"))
    try:
        followed = [driver.submit([300], grammar=pb.Grammar(source=f'start: "{word}"')) for word in ("a", "a", "b")]
        driver.run([driver.submit([300, 301]), *followed])
        driver.engine.abort(driver.submit([300]))
        driver.submit([300])
        driver.engine.move_all()  # fails it
        stats = driver.engine.step().stats.values
    finally:
        driver.close()
    assert shown_values() - stats.keys() == set()
    ends = {name: stats[name] for name in ("accepted", "finished", "aborted", "failed")}
    assert ends == {"accepted": 6, "finished": 4, "aborted": 1, "failed": 1}
    lookups = {name: stats[f"grammar_{name}"] for name in ("hits", "misses", "evictions")}
    assert lookups == {"hits": 1, "misses": 2, "evictions": 1}
