"""docs/examples.md runs, from its first line to its last, and prints what stands there."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest

from tests.serving import ROOT, Served

EXAMPLES = ROOT / "docs" / "examples.md"
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def test_they_print_what_they_say(seeing: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    programs = PROGRAM.findall(EXAMPLES.read_text())
    assert len(programs) > 8
    for program, printed in programs:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(program.replace("http://127.0.0.1:8000", seeing.url), names)
        assert out.getvalue() == printed, program
