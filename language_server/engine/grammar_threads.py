"""Threads that compile grammars: llguidance recurses along rules and references as deep as a grammar has them.

With the usual stack of 8 MiB a grammar of 5,000 rules in a row ends the process. What was measured is less than 400
bytes of stack for each byte of the source; sources are bounded (`MAX_GRAMMAR_BYTES`), stacks are made for twice that.
They are address space: memory is used as far as a recursion goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from language_server.engine.sampling_params import MAX_GRAMMAR_BYTES

T = TypeVar("T")

_STACK_BYTES = 1024 * MAX_GRAMMAR_BYTES


class GrammarThreads:
    """A pool of `count` threads, started as they are needed."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        # The pool starts its threads in here, and they keep the stack size of this moment.
        before = threading.stack_size(_STACK_BYTES)
        try:
            return self._pool.submit(work)
        finally:
            threading.stack_size(before)
