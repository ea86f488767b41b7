"""A process in which a grammar is compiled for a trial, before the engine compiles it itself.

llguidance bounds most of its work, but not all: a hundred intersected expressions, 4 KB, or `multipleOf` in a schema
keep it busy for minutes, and no thread can be told to stop. So a grammar that nobody has seen is given to this process
first, whose CPU time and memory the kernel limits. What it survives, the engine's threads do too.

    engine ----a source----> trial        over a socket pair
           <---an empty message---        it has survived; before the first: it is ready
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from common.errors import InternalError, InvalidRequestError
from common.grammars import grammar_threads
from language_server.engine.grammar import compile_grammar, load_tokenizer

_BYTES = 3 << 29  # of address space, with that of its stack
_NICE = 5  # the engine's steps come first


class GrammarTrial:
    """One such process: started for the first grammar, and again after one that has ended it.

    For one thread at a time; `kill` is for any.

    Args:
        tokenizer: the checkpoint's tokenizer.json.
        most_seconds: of CPU for one grammar.
    """

    def __init__(self, tokenizer: Path, *, vocab_size: int, eos_ids: Sequence[int], most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._arguments = [str(tokenizer), str(vocab_size), json.dumps(list(eos_ids)), str(most_seconds)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begins to start it, if it does not run: loading the tokenizer takes it a while."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "language_server.engine.grammar_trial", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, *self._arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._connection = Connection(ours.detach())
        self._ready = False

    def survive(self, source: str) -> None:
        """Returns when the source has been compiled, with or without success.

        Raises:
            InvalidRequestError: it takes too much time or memory, or crashes the compiler.
            InternalError: the process does not start.
        """
        self.start()
        try:
            if not self._ready:
                self._connection.recv_bytes()
                self._ready = True
            self._connection.send_bytes(source.encode())
            self._connection.recv_bytes()
        except (EOFError, OSError):
            status = self.close()
            if not self._ready:
                raise InternalError(f"the process that tries grammars ended with status {status}") from None
            why = (
                f"it takes more than {self._most_seconds:g} seconds"
                if status == -signal.SIGPROF
                else "it is too complex"
            )
            raise InvalidRequestError(f"the grammar can't be used: {why} to compile") from None

    def kill(self) -> None:
        """Ends the process in the middle of what it does."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> int:
        """Ends the process if it runs; its exit status. It may be started again."""
        if self._process is None:
            return 0
        self._connection.close()
        status, self._process = self._process.wait(), None
        return status


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="language_server.engine.grammar_trial")
    parser.add_argument("socket_fd", type=int)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("vocab_size", type=int)
    parser.add_argument("eos_ids", type=json.loads)
    parser.add_argument("most_seconds", type=float)
    arguments = parser.parse_args(argv)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # a terminal's go to all processes; the socket's end is ours
        signal.signal(ignored, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    tokenizer = load_tokenizer(arguments.tokenizer, vocab_size=arguments.vocab_size, eos_ids=arguments.eos_ids)
    connection = Connection(arguments.socket_fd)

    def serve() -> None:
        while True:
            connection.send_bytes(b"")
            source = connection.recv_bytes().decode()
            # What the kernel does then is its default for this signal: it ends the process, whoever holds which lock.
            signal.setitimer(signal.ITIMER_PROF, arguments.most_seconds)
            with contextlib.suppress(InvalidRequestError):  # the engine will find that out by itself
                compile_grammar(tokenizer, source)
            signal.setitimer(signal.ITIMER_PROF, 0)

    with contextlib.suppress(EOFError, OSError):  # the engine is gone, or wants no more
        grammar_threads("trial", 1).submit(serve).result()


if __name__ == "__main__":
    main(sys.argv[1:])
