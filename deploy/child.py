"""A role as a child process: started with a lifeline, found through its state file, stopped by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import deploy
from common.lifecycle import LIFELINE
from common.state import ProcessState, read_state

_POLL = 0.05  # seconds
# Of our packages. Children run with -P: a folder `common` where the user happens to be is not ours.
_ROOT = str(Path(deploy.__file__).parent.parent)


class Child:
    """One process of ours.

    It runs in a session of its own, so that a terminal's Ctrl-C reaches only its parent, which stops its children in
    the right order. If the parent dies without a word, the child notices at its end of the lifeline.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, state_file: Path) -> None:
        self.name = name
        self.process = process
        self._state_file = state_file

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], environ: Mapping[str, str], folder: Path, lifeline: int
    ) -> Child:
        """Starts `python -m ARGV --state-file FILE`.

        Args:
            name: what it is called in messages: "encode server 2".
            argv: module and options.
            environ: its environment.
            folder: for its state file.
            lifeline: read end of the pipe whose write end the parent holds.
        """
        state_file = folder / f"{name.replace(' ', '-')}.json"
        path = os.pathsep.join(filter(None, (_ROOT, environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", *argv, "--state-file", str(state_file)),
            env={**environ, "PYTHONPATH": path, LIFELINE: str(lifeline)},
            pass_fds=(lifeline,),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(name, process, state_file)

    async def bound(self) -> tuple[ProcessState, ...]:
        """What it serves and where, once it listens."""
        while True:
            if states := read_state(self._state_file):
                return states
            await asyncio.sleep(_POLL)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def describe_end(self) -> str:
        status = self.process.returncode
        assert status is not None
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return f"the {self.name} (process {self.process.pid}) {how}"

    async def stop(self) -> None:
        """Asks it to end and waits until it has; it drains for as long as its own options say."""
        if self.running:
            self.process.terminate()
        await self.process.wait()

    def kill(self) -> None:
        if self.running:
            self.process.kill()
