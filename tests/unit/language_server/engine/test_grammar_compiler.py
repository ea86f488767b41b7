"""Grammars are compiled once, for whoever waits; one that takes for ever is ended and holds up nobody for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from common.errors import InvalidRequestError
from common.grammars import MAX_GRAMMAR_BYTES
from language_server.engine.grammar import GrammarMatcher
from language_server.engine.grammar_compiler import GrammarCompiler
from language_server.engine.sampling_params import GrammarParams
from tests.checkpoints import DEMO_FILES, demo_vocabulary

PATH = DEMO_FILES / "tokenizer.json"
TOKENIZER = Tokenizer.from_str(PATH.read_text())
VOCABULARY = demo_vocabulary()
EOS = frozenset([VOCABULARY.end_of_turn, VOCABULARY.end_of_text])
LETTERS = 'start: ("a" | "b")+'


class Compiler(GrammarCompiler):
    """With an event for who is woken."""

    def __init__(self, path: Path = PATH) -> None:
        self.awake = threading.Event()
        super().__init__(path, vocab_size=VOCABULARY.size, eos_ids=EOS, wake=self.awake.set, most_seconds=0.5)

    def ask(self, source: str, text: str = "") -> Future[GrammarMatcher]:
        return self.submit(GrammarParams(source=source), ids(text), EOS)


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    with closing(Compiler()) as made:
        yield made


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def allowed(matcher: GrammarMatcher) -> set[int]:
    mask = np.zeros(4 * -(-VOCABULARY.size // 32), dtype=np.uint8)
    matcher.fill(mask)
    return set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


def endless(seed: int) -> str:
    """6 KB that llguidance works on for minutes."""
    return "start: T\nT: " + " & ".join(f"/.*{seed}{i}.*/" for i in range(400))


def test_whoever_waits_is_woken(compiler: Compiler) -> None:
    future = compiler.ask(LETTERS)
    assert compiler.awake.wait(60)
    assert future.done()
    compiler.awake.clear()
    compiler.ask("start: nothing")
    assert compiler.awake.wait(60)
    assert compiler.gauges["grammars"] == 1
    assert compiler.gauges["grammar_compile_seconds"] > 0


def test_a_source_is_compiled_once_and_its_matchers_are_apart(compiler: Compiler) -> None:
    futures = [compiler.ask(LETTERS, text) for text in ("", "a", "ab")]
    matchers = [future.result(60) for future in futures]
    assert compiler.gauges["grammars"] == 1
    assert (compiler.gauges["grammar_misses"], compiler.gauges["grammar_hits"]) == (1, 2)
    first, *others = matchers
    assert not allowed(first) & EOS
    assert all(allowed(other) > EOS for other in others)
    first.feed(ids("x")[0])
    assert first.error is not None
    assert [other.error for other in others] == [None, None]
    assert not allowed(compiler.ask(LETTERS).result(60)) & EOS


def test_a_fault_is_remembered(compiler: Compiler) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="unknown name"):
            compiler.ask("start: nothing").result(60)
    assert compiler.gauges["grammar_hits"] == 1


def test_the_oldest_sources_are_forgotten(compiler: Compiler) -> None:
    for i in range(40):
        compiler.ask(f'start: "{i}"').result(60)
    compiler.ask('start: "39"').result(60)
    assert compiler.gauges["grammars"] == 40
    compiler.ask('start: "0"').result(60)
    assert compiler.gauges["grammars"] == 41
    assert compiler.gauges["grammar_evictions"] == 9
    assert compiler.gauges["grammar_entries"] == 32
    assert compiler.gauges["grammar_bytes"] == sum(len(f'start: "{i}"') for i in [0, *range(9, 40)])


def test_what_takes_for_ever_is_ended_and_does_not_hold_up_the_others(compiler: Compiler) -> None:
    compiler.ask(LETTERS).result(60)
    slow = [compiler.ask(endless(i)) for i in range(2)]
    assert compiler.ask('start: "quick"').result(60).active
    assert not any(future.done() for future in slow)
    for future in slow:
        with pytest.raises(InvalidRequestError, match=r"more than 0\.5 seconds"):
            future.result(120)
    assert compiler.ask('start: "after"').result(60).active


def test_nothing_is_compiled_that_nobody_waits_for(compiler: Compiler) -> None:
    slow = [compiler.ask(endless(i)) for i in range(4)]  # as many as there are threads
    unwanted = [compiler.ask('start: "x"') for _ in range(2)]
    wanted = [compiler.ask('start: "y"') for _ in range(2)]
    assert all(future.cancel() for future in (*unwanted, wanted[0], *slow))
    assert wanted[1].result(120).active
    assert compiler.ask('start: "x"').result(60).active  # asked for again, it is
    assert compiler.gauges["grammars"] == 2


def test_closing_waits_for_no_slow_grammar() -> None:
    compiler = Compiler()
    compiler.ask(LETTERS).result(60)
    slow = [compiler.ask(endless(i)) for i in range(6)]
    compiler.close()
    assert all(isinstance(future.exception(1), InvalidRequestError | CancelledError) for future in slow)


@pytest.mark.parametrize("name", ["a", "A"], ids=["rules", "terminals"])
def test_the_deepest_grammar_does_not_end_the_process(compiler: Compiler, name: str) -> None:
    """As many rules in a row as fit: how llguidance is made to recurse deepest."""
    count = MAX_GRAMMAR_BYTES // (2 * len(name) + 12)
    rules = [f"{name}{i}:{name}{i + 1}" for i in range(count)]
    source = "\n".join([f"start:{name}0", *rules, f'{name}{count}:"x"'])
    assert 0.85 * MAX_GRAMMAR_BYTES < len(source) <= MAX_GRAMMAR_BYTES
    matcher = compiler.ask(source).result(120)
    assert allowed(matcher) == set(ids("x"))
    matcher.feed(ids("x")[0])
    assert matcher.complete


def test_a_tokenizer_that_can_not_be_used_is_not_the_requests_fault(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with closing(Compiler(tmp_path / "tokenizer.json")) as compiler:
        error = compiler.ask(LETTERS).exception(60)
        assert error is not None
        assert not isinstance(error, InvalidRequestError)
