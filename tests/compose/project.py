"""`docker compose` on the files of `deploy`, and what it says of the containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving import ROOT

PROJECT = "epd-drill"
_COMMAND_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Container:
    """As `docker inspect` tells it."""

    id: str
    name: str
    service: str
    pid: int
    status: str  # "running", "exited"
    health: str  # "healthy"; "" without a health check
    exit_code: int
    restarts: int
    addresses: Mapping[str, str]  # network -> IP address
    facts: Mapping[str, Any]

    @property
    def local_pid(self) -> int:
        """Of its first process, on this machine.

        Raises:
            AssertionError: it has none, or the engine is on another machine, where the number means something else.
        """
        groups = Path(f"/proc/{self.pid}/cgroup")
        is_ours = self.pid > 1 and groups.exists() and self.id in groups.read_text()
        assert is_ours, f"{self.name}: process {self.pid} of this machine is not the container's"
        return self.pid


class Project:
    """Args:
    variables: of the environment of `docker`, and of the compose file.
    files: of compose, in `deploy`; later ones add to the first.
    name: of the project.
    profiles: of compose, that are switched on.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        *files: str,
        name: str = PROJECT,
        profiles: Sequence[str] = (),
    ) -> None:
        self._variables = dict(variables)
        self._command = ["docker", "compose", "--project-name", name]
        for file in files or ("compose.yaml",):
            self._command += ["--file", str(ROOT / "deploy" / file)]
        self._command += ["--env-file", os.devnull]  # not that of whoever runs this
        self._command += [argument for profile in profiles for argument in ("--profile", profile)]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What it writes to stdout. Raises AssertionError with what it says if it fails."""
        return self._run([*self._command, *arguments], check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self._run(["docker", *arguments], check=check)

    def up(self, *arguments: str) -> None:
        """Starts what does not run, and waits until all is healthy."""
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "240", *arguments)

    def containers(self, service: str | None = None) -> list[Container]:
        """By name, those that ended too."""
        ids = self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
        if not ids:
            return []
        return sorted(map(_container, json.loads(self.docker("inspect", *ids))), key=lambda container: container.name)

    def container(self, service: str) -> Container:
        """The only one of a service."""
        (found,) = self.containers(service)
        return found

    def logs(self, *arguments: str) -> str:
        return self.compose("logs", "--no-color", *arguments)

    def _run(self, command: Sequence[str], *, check: bool) -> str:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
        )
        if check and ended.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
        return ended.stdout


def wait_until(what: str, happens: Callable[[], bool], seconds: float = 120.0) -> float:
    """The seconds it took. Raises AssertionError if it does not happen."""
    begin = time.monotonic()
    while not happens():
        if time.monotonic() - begin > seconds:
            raise AssertionError(f"{seconds:g} s passed, and still not: {what}")
        time.sleep(0.2)
    return time.monotonic() - begin


def _container(facts: Mapping[str, Any]) -> Container:
    state = facts["State"]
    return Container(
        id=facts["Id"],
        name=facts["Name"].lstrip("/"),
        service=facts["Config"]["Labels"]["com.docker.compose.service"],
        pid=state["Pid"],
        status=state["Status"],
        health=state.get("Health", {}).get("Status", ""),
        exit_code=state["ExitCode"],
        restarts=facts["RestartCount"],
        addresses={
            name.removeprefix(f"{PROJECT}_"): network["IPAddress"]
            for name, network in facts["NetworkSettings"]["Networks"].items()
        },
        facts=facts,
    )
