"""The Dockerfile: what its text says of where torch comes from. Nothing is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.needs import needs

ROOT = Path(__file__).parents[3]
CPU = "https://download.pytorch.org/whl/cpu"
CUDA = "https://download.pytorch.org/whl/cu130"


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    base: str
    steps: list[str]  # instructions, each on one line and without mounts


def stages() -> dict[str, Stage]:
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.M)
    text = re.sub(r" --mount=\S+", "", text.replace("\\\n", ""))
    found = {}
    for begin in re.finditer(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", text, flags=re.M | re.S):
        steps = [" ".join(step.split()) for step in begin[3].splitlines() if step]
        found[begin[2]] = Stage(name=begin[2], base=begin[1], steps=steps)
    return found


def line(name: str) -> Iterator[Stage]:
    """A stage, what it is made from, and so on."""
    known = stages()
    while name in known:
        yield known[name]
        name = known[name].base


def environment(target: str) -> list[Stage]:
    """The line of the stage whose environment an image has."""
    (source,) = re.findall(r"^COPY --from=(\S+) /opt/epd /opt/epd$", "\n".join(stages()[target].steps), flags=re.M)
    return list(line(source))


@pytest.mark.parametrize(("given", "index"), [(None, [CPU]), (CUDA, [CUDA]), ("", [])])
def test_the_argument_says_where_torch_comes_from(tmp_path: Path, given: str | None, index: list[str]) -> None:
    """What the stage runs, with a pip that says what it is told."""
    argument, run = stages()["torch"].steps  # in this order: an argument holds from its line on, and in its stage alone
    default = argument.removeprefix("ARG TORCH_INDEX=")
    for file in ("pyproject.toml", "deploy/needs.py"):
        shutil.copy(ROOT / file, tmp_path)
    pip = tmp_path / "pip"
    pip.write_text("""#!/bin/sh\nprintf '%s\\n' "$@"\n""")
    pip.chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_INDEX": default if given is None else given}
    ended = subprocess.run(
        ["sh", "-c", run.removeprefix("RUN ")], cwd=tmp_path, env=environ, check=True, capture_output=True, text=True
    )
    _, _, install, *arguments, need = ended.stdout.splitlines()
    assert install == "install"
    assert arguments == [word for url in index for word in ("--index-url", url)]
    assert re.match(r"torch\W", need)


@pytest.mark.parametrize("target", ["encode", "language", "all"])
def test_servers_have_that_torch(target: str) -> None:
    made = environment(target)
    names = [stage.name for stage in made]
    assert "torch" in names
    # Nothing before it may bring another: that of pip's own index comes with CUDA, and would be kept.
    for stage in made[names.index("torch") + 1 :]:
        for extras in re.findall(r"python needs\.py ([\w ]*)", "\n".join(stage.steps)):
            found = needs(ROOT / "pyproject.toml", extras.split())
            assert not any(need.startswith("torch") for need in found), stage.name


def test_routers_have_none() -> None:
    assert "torch" not in [stage.name for stage in environment("router")]
