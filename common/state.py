"""The state file: which processes run and where they listen, for scripts and for `epd serve`.

    {"processes": [{"role": "encode", "pid": 4711, "addresses": {"grpc": "127.0.0.1:9001", "metrics": "..."}}]}

Names of addresses: router `http`; encode `grpc`, `metrics`; language `grpc`, `data`, `metrics`. They carry the ports
that were really bound, so a server started on port 0 is found through its state file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    role: str
    pid: int
    addresses: Mapping[str, str] = field(default_factory=dict)


def write_state(path: Path | None, role: str, addresses: Mapping[str, str]) -> None:
    """States that this process serves `role` at `addresses` ("host:port" by name); does nothing without a path."""
    if path is not None:
        write_processes(path, [ProcessState(role=role, pid=os.getpid(), addresses=dict(addresses))])


def write_processes(path: Path, processes: Sequence[ProcessState]) -> None:
    """Replaces the file in one step: a reader sees the old or the new one, never half of it."""
    text = json.dumps({"processes": [asdict(process) for process in processes]}, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def read_state(path: Path) -> tuple[ProcessState, ...]:
    """The processes of the file; empty if it is not there yet.

    Raises:
        ValueError: the file is not a state file.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ()
    try:
        return tuple(
            ProcessState(role=entry["role"], pid=entry["pid"], addresses=dict(entry["addresses"]))
            for entry in json.loads(text)["processes"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a state file: {error!r}") from None
