"""What is safe to hand to llguidance, for who checks grammars and for who follows them.

llguidance recurses along rules and references as deep as a grammar has them. With the usual stack of 8 MiB a grammar
of 3,000 rules in a row, 33 KB, ends the process. What was measured is less than 400 bytes of stack for each byte of
the source; sources are bounded, stacks are made for twice that. They are address space: memory is used as far as a
recursion goes.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

# Of a whole source. What OpenAI's API takes as a schema (120,000 characters of names) fits with all that is around it.
MAX_GRAMMAR_BYTES = 256 << 10
_STACK_BYTES = 1024 * MAX_GRAMMAR_BYTES


def grammar_threads(name: str, count: int) -> ThreadPoolExecutor:
    """`count` threads that can read any grammar of up to MAX_GRAMMAR_BYTES.

    They are started here, all of them: the stack size is a setting of the process for threads to come, and a pool
    left to itself would start some of them later.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    started = threading.Barrier(count + 1)  # a thread that waits takes no second task
    before = threading.stack_size(_STACK_BYTES)
    try:
        for _ in range(count):
            pool.submit(started.wait)
    finally:
        threading.stack_size(before)
    started.wait()
    return pool
