"""tests/other_pythons.sh with stand-ins for interpreters: what fails there fails, and what is missing is named."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "other_pythons.sh"

# Takes every command; the one that has $FAILING in it fails.
PYTHON = """#!/bin/sh
case "$*" in
  *"$FAILING"*) exit 1 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A search path on which there is no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("bash", "dirname", "rm", "mkdir", "cp"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def run(tools: Path, *argv: str, failing: str = "nothing") -> subprocess.CompletedProcess[str]:
    environ = {"PATH": str(tools), "HOME": str(tools), "FAILING": failing}
    return subprocess.run(["bash", SCRIPT, *argv], env=environ, capture_output=True, text=True, check=False)


def add_python(tools: Path, version: str) -> None:
    python = tools / f"python{version}"
    python.write_text(PYTHON)
    python.chmod(0o755)


def test_missing_versions_are_named(tools: Path, tmp_path: Path) -> None:
    assert run(tools, "--missing").stdout.split() == ["3.12", "3.13"]
    add_python(tools, "3.13")
    assert run(tools, "--missing").stdout.split() == ["3.12"]
    done = run(tools, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Python 3.12: not found, skipped" in done.stdout
    assert os.access(tmp_path / "python3.13" / "bin" / "python", os.X_OK)


@pytest.mark.parametrize("step", ["-m venv", "-m pip install", "-m deploy.demo.run"])
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_an_interpreter_that_is_here_and_fails_at_any_step_fails_the_run(
    tools: Path, tmp_path: Path, version: str, step: str
) -> None:
    add_python(tools, version)
    assert run(tools, str(tmp_path)).returncode == 0
    assert run(tools, str(tmp_path), failing=step).returncode != 0


def test_ci_runs_it_and_lists_what_was_missing() -> None:
    ci = (SCRIPT.parents[1] / ".ci" / "run").read_text()
    assert "make test-pythons" in ci
    assert "tests/other_pythons.sh --missing" in ci
