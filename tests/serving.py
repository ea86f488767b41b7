"""The system as a user starts it: processes that are found through the state file, and ended by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.state import ProcessState, read_state

ROOT = Path(__file__).parents[1]
TIMEOUT = 120.0  # seconds; reached only when something is broken


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running system. Addresses are "host:port", pids by role."""

    url: str
    addresses: Mapping[str, Mapping[str, str]]
    pids: Mapping[str, int]

    def metrics(self, role: str) -> dict[str, float]:
        """Every sample of a role's metrics endpoint, by name with labels."""
        address = self.addresses[role]["http" if role == "router" else "metrics"]
        text = httpx.get(f"http://{address}/metrics", timeout=TIMEOUT, trust_env=False).text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@contextmanager
def serving(model: Path, state_file: Path, *argv: str) -> Iterator[Served]:
    """Starts `epd serve`, waits until it is ready, and ends it; asserts that it ends with status 0."""
    with _running("serve", state_file, "--model", str(model), *argv) as served:
        yield served


@contextmanager
def routing(
    behind: Served, state_file: Path, *argv: str, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """One more router in front of the servers of `behind`, likewise. It is ready for images, too."""
    servers = ("--encode", behind.addresses["encode"]["grpc"], "--language", behind.addresses["language"]["grpc"])
    with _running("router", state_file, *servers, *argv, environment=environment) as served:
        deadline = time.monotonic() + TIMEOUT
        while httpx.get(f"{served.url}/ready", trust_env=False).status_code != 200:
            assert time.monotonic() < deadline, state_file.with_suffix(".log").read_text()
            time.sleep(0.05)
        yield served


@contextmanager
def _running(role: str, state_file: Path, *argv: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    command = [sys.executable, "-m", "deploy.cli", role, "--port", "0", "--state-file", str(state_file), *argv]
    log = state_file.with_suffix(".log")
    env = {**os.environ, **(environment or {})}
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, env=env, stderr=file, stdout=file) as process:
        try:
            yield _wait_ready(process, state_file, log)
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT)
            assert process.returncode == 0, log.read_text()
        finally:
            process.kill()


def wait_states(process: subprocess.Popen[bytes], state_file: Path, log: Path) -> Sequence[ProcessState]:
    """`epd serve` writes its state file once everything is ready. Raises AssertionError if it ends before."""
    while not (states := read_state(state_file)):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(log.read_text())
    return states


def router_url(states: Sequence[ProcessState]) -> str:
    return next(f"http://{state.addresses['http']}" for state in states if state.role == "router")


def _wait_ready(process: subprocess.Popen[bytes], state_file: Path, log: Path) -> Served:
    states = wait_states(process, state_file, log)
    addresses = {state.role: state.addresses for state in states}
    return Served(
        url=router_url(states),
        addresses=addresses,
        pids={state.role: state.pid for state in states},
    )
