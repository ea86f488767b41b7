"""The commands that README.md and CI rely on are there."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("target", ["setup", "demo", "check", "test", "test-pythons", "proto", "lock", "clean", "help"])
def test_targets_exist(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_every_make_target_of_the_readme_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", (ROOT / "README.md").read_text(), flags=re.M))
    assert named >= {"setup", "demo", "check", "test"}
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def name_of(requirement: str) -> str:
    """Of a requirement line, normalised as PEP 503 says."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_the_lock_pins_all_that_is_required_except_torch() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {
        name_of(line)
        for requirements in (project["dependencies"], *project["optional-dependencies"].values())
        for line in requirements
    }
    assert required - pinned == {"torch", "epd-serve"}
    assert len(pinned) == len([line for line in lines if not line.startswith("#")])
