"""The engine's own process: `python -m language_server.engine_process`, which the front starts.

    front ----EngineCommands----> engine      protobuf messages over a socket pair;
          <---EngineEvents-------             the arena is a memory file that both have mapped

The loop takes all commands that wait, makes one step, sends what happened. When a step had nothing to do it sleeps
until the next command or deadline, or until one of the engine's threads wakes it. It ends when the front says stop, or
is gone.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import sys
import time
from multiprocessing import connection as pipes
from multiprocessing.connection import Connection

from common.logs import setup_logging
from common.pb import engine_pb2 as pb
from language_server.engine.arena import Arena
from language_server.engine.build import build_engine
from language_server.engine.engine import Engine
from language_server.engine.options import EngineOptions
from language_server.wake import Wake

log = logging.getLogger(__name__)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST_SLEEP = 3600.0  # seconds; poll() overflows at some weeks


class EngineLoop:
    """Feeds one engine from one connection."""

    def __init__(self, engine: Engine, connection: Connection, wake: Wake) -> None:
        self._engine = engine
        self._connection = connection
        self._wake = wake
        self._commands = 0
        self._stopped = False

    def run(self) -> None:
        """Returns after a stop command; raises EOFError when the front is gone."""
        idle = False
        while not self._stopped:
            self._receive(wait=idle)
            events = self._engine.step()
            idle = self._engine.idle
            events.idle = idle
            events.commands = self._commands
            self._connection.send_bytes(events.SerializeToString())

    def _receive(self, *, wait: bool) -> None:
        if wait:
            deadline = self._engine.next_deadline()
            seconds = _LONGEST_SLEEP if deadline is None else deadline - time.monotonic()
            pipes.wait([self._connection, self._wake.fd], min(max(seconds, 0.0), _LONGEST_SLEEP))
        self._wake.clear()
        while self._connection.poll(0):
            for command in pb.EngineCommands.FromString(self._connection.recv_bytes()).commands:
                self._apply(command)

    def _apply(self, command: pb.EngineCommand) -> None:
        self._commands += 1
        match command.WhichOneof("command"):
            case "generate":
                self._engine.generate(command.generate)
            case "abort":
                self._engine.abort(command.abort.handle)
            case "filled":
                self._engine.media_filled(command.filled)
            case "closed":
                self._engine.grant_closed(command.closed.grant_id, command.closed.reason)
            case "grant_lost":
                lost = command.grant_lost
                self._engine.grant_lost(lost.handle, lost.key, lost.grant_id)
            case "stop":
                self._engine.move_all()
                self._stopped = True
            case unknown:
                raise AssertionError(f"a command that this engine does not know: {unknown}")


def _end_with_parent() -> None:
    """Has Linux kill this process when the front is gone, also if it is in the middle of a long load or step."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="language_server.engine_process")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--arena-fd", type=int, required=True)
    parser.add_argument("--arena-bytes", type=int, required=True)
    parser.add_argument("--options", type=EngineOptions.from_json, required=True)
    parser.add_argument("--log-level", required=True)
    parser.add_argument("--log-format", required=True)
    arguments = parser.parse_args(argv)
    setup_logging("language engine", arguments.log_level, arguments.log_format)
    # A terminal's Ctrl-C goes to all processes; the front decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    _end_with_parent()
    connection = Connection(arguments.socket_fd)
    wake = Wake()
    try:
        arena = Arena(arguments.arena_fd, arguments.arena_bytes)
        engine, info = build_engine(arguments.options, arena, wake=wake.set)
    except Exception as error:
        log.debug("can't start", exc_info=True)
        connection.send_bytes(pb.EngineEvents(failed=str(error) or type(error).__name__).SerializeToString())
        return 1
    try:
        connection.send_bytes(pb.EngineEvents(ready=info).SerializeToString())
        EngineLoop(engine, connection, wake).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        log.warning("the front is gone: ending")
        return 1
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
