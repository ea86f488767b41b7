"""Grammars that end a process whose threads have the usual stack, read by threads that are made for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from llguidance import LLMatcher

from common.grammars import MAX_GRAMMAR_BYTES, grammar_threads


def chained(name: str) -> str:
    """As many rules in a row as fit: how llguidance is made to recurse deepest."""
    count = MAX_GRAMMAR_BYTES // (2 * len(name) + 12)
    rules = [f"{name}{i}:{name}{i + 1}" for i in range(count)]
    return "\n".join([f"start:{name}0", *rules, f'{name}{count}:"x"'])


def referenced() -> str:
    count = MAX_GRAMMAR_BYTES // 34
    definitions = {f"{i}": {"$ref": f"#/$defs/{i + 1}"} for i in range(count)} | {f"{count}": {"type": "string"}}
    schema = {"$ref": "#/$defs/0", "$defs": definitions}
    return json.dumps({"grammars": [{"json_schema": schema}]}, separators=(",", ":"))


@pytest.mark.parametrize(
    "make", [lambda: chained("a"), lambda: chained("A"), referenced], ids=["rules", "terminals", "references"]
)
def test_every_thread_reads_the_deepest_grammar(make: Callable[[], str]) -> None:
    source = make()
    assert 0.85 * MAX_GRAMMAR_BYTES < len(source) <= MAX_GRAMMAR_BYTES
    with grammar_threads("deep", 2) as threads:
        together = threading.Barrier(2)

        def read() -> str:
            together.wait()  # so that each thread has one
            return LLMatcher.validate_grammar(source)

        reading: list[Future[str]] = [threads.submit(read) for _ in range(2)]
        assert [future.result() for future in reading] == ["", ""]


def test_other_threads_keep_the_usual_stack() -> None:
    before = threading.stack_size()
    threads: ThreadPoolExecutor = grammar_threads("deep", 2)
    assert threading.stack_size() == before
    assert threads.submit(threading.active_count).result() >= 3
    threads.shutdown()
