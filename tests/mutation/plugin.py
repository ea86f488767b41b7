"""A plugin of pytest: the tests' routers overlook a field, or tell which fields the tests' requests have.

pytest -p tests.mutation.plugin --drop-field chat.temperature
pytest -p tests.mutation.plugin --record-fields FILE
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mutation.dropping import DROP, RECORD, install

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--drop-field", help="a mutant's name (tests/mutation/mutants.py)")
    parser.addoption("--record-fields", type=Path, help="where to write the mutants that each test could notice")


def pytest_configure(config: pytest.Config) -> None:
    drop, record = config.getoption("--drop-field"), config.getoption("--record-fields")
    if drop is not None:
        os.environ[DROP] = drop
    if record is not None:
        seen = record.with_suffix(".lines")
        seen.write_text("")
        os.environ[RECORD] = str(seen)
        config.pluginmanager.register(Recorder(record, seen))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SITE), str(ROOT), os.environ.get("PYTHONPATH"))))
    install()


@dataclass(eq=False)
class Recorder:
    """Writes {test: {"fields": [...], "seconds": ...}}."""

    path: Path
    seen: Path  # lines of all tests, one after another
    tests: dict[str, dict[str, object]] = field(default_factory=dict)
    offset: int = 0
    began: float = 0.0

    def pytest_runtest_logstart(self) -> None:
        self.offset = self.seen.stat().st_size
        self.began = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        with self.seen.open() as file:
            file.seek(self.offset)
            fields = sorted(set(file.read().splitlines()))
        self.tests[nodeid] = {"fields": fields, "seconds": time.monotonic() - self.began}

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.tests))
