"""An environment of its own for each client, made once: what they require clashes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.environments import is_made, mark_made, prepare_python, run

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
        programs_of(self.name)

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
        if not is_made(folder, pins):
            shutil.copytree(HERE / "js", folder, dirs_exist_ok=True)
            run("npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund")
            mark_made(folder, pins)
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


def programs_of(name: str) -> Path:
    """The folder of the programs of an environment with what <name>.txt pins; see `prepare_python`."""
    return prepare_python(BUILD / name, HERE / f"{name}.txt")
