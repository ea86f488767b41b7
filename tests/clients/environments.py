"""An environment of its own for each client, made once: what they require clashes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "clients"


class Client(Protocol):
    """A client, and the script that uses it."""

    @property
    def name(self) -> str: ...

    def missing(self) -> str:
        """What this machine lacks for it; "" if nothing."""

    def prepare(self) -> None:
        """Makes its environment unless it is there. Raises subprocess.CalledProcessError."""

    def command(self, scenario: Path) -> list[str]:
        """Runs its steps (see steps.main) from the root of the repository."""


@dataclass(frozen=True, kw_only=True)
class PythonClient:
    """Pinned in <name>.txt, used by use_<name>.py."""

    name: str

    def missing(self) -> str:
        return ""

    def prepare(self) -> None:
        prepare_python(self.name)

    def command(self, scenario: Path) -> list[str]:
        module = f"tests.clients.use_{self.name.replace('-', '_')}"
        return [str(BUILD / self.name / "bin" / "python"), "-m", module, str(scenario)]


@dataclass(frozen=True, kw_only=True)
class JavaScriptClient:
    """All of these share one environment, pinned in js/package-lock.json."""

    name: str
    script: str

    def missing(self) -> str:
        return "" if shutil.which("node") and shutil.which("npm") else "there is no Node.js here"

    def prepare(self) -> None:
        folder = BUILD / "js"
        pins = HERE / "js" / "package-lock.json"
        if not _is_made(folder, pins):
            shutil.copytree(HERE / "js", folder, dirs_exist_ok=True)
            _run("npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund")
            _mark_made(folder, pins)
        shutil.copytree(HERE / "js", folder, dirs_exist_ok=True)  # scripts find node_modules beside themselves only

    def command(self, scenario: Path) -> list[str]:
        return ["node", str(BUILD / "js" / self.script), str(scenario)]


CLIENTS: tuple[Client, ...] = (
    PythonClient(name="langchain"),
    PythonClient(name="litellm"),
    PythonClient(name="instructor"),
    PythonClient(name="pydantic-ai"),
    PythonClient(name="anthropic"),
    JavaScriptClient(name="openai-js", script="openai.mjs"),
    JavaScriptClient(name="ai-sdk", script="ai-sdk.mjs"),
)


def prepare_python(name: str) -> Path:
    """The folder of the programs of an environment with what <name>.txt pins.

    Raises:
        subprocess.CalledProcessError: the environment can't be made, say without a network.
    """
    folder, pins = BUILD / name, HERE / f"{name}.txt"
    if not _is_made(folder, pins):
        print(f"== setting up {name}", flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(pins))
        _mark_made(folder, pins)
    return folder / "bin"


def _is_made(folder: Path, pins: Path) -> bool:
    """An interrupted installation is not, nor one of other versions."""
    stamp = folder / "made-of"
    return stamp.exists() and stamp.read_bytes() == pins.read_bytes()


def _mark_made(folder: Path, pins: Path) -> None:
    shutil.copy(pins, folder / "made-of")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
