"""Grammars on the demo's tokenizer: what they allow, where they begin and end, and what is wrong with them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing

import numpy as np
import pytest
from tokenizers import Tokenizer

from common.errors import InvalidRequestError
from language_server.engine.grammar import GrammarMatcher
from language_server.engine.grammar_compiler import GrammarCompiler
from language_server.engine.sampling_params import GrammarParams
from tests.checkpoints import DEMO_FILES, demo_vocabulary

TOKENIZER = Tokenizer.from_str((DEMO_FILES / "tokenizer.json").read_text())
VOCABULARY = demo_vocabulary()
EOS = frozenset([VOCABULARY.end_of_turn, VOCABULARY.end_of_text])
LETTERS = 'start: ("a" | "b")+'


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    path = DEMO_FILES / "tokenizer.json"
    made = GrammarCompiler(path, vocab_size=VOCABULARY.size, eos_ids=EOS, wake=lambda: None)
    with closing(made):
        yield made


def submit(
    compiler: GrammarCompiler,
    source: str,
    output: list[int] | None = None,
    *,
    after: int | None = None,
    stop_ids: frozenset[int] = EOS,
) -> Future[GrammarMatcher]:
    return compiler.submit(GrammarParams(source=source, after_token_id=after), output or [], stop_ids)


def allowed(matcher: GrammarMatcher) -> set[int]:
    mask = np.zeros(4 * -(-VOCABULARY.size // 32), dtype=np.uint8)
    matcher.fill(mask)
    return set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


def test_the_mask_is_what_the_grammar_allows(compiler: GrammarCompiler) -> None:
    matcher = submit(compiler, "start: /[0-9]{2}/").result()
    digits = {ids(digit)[0] for digit in "0123456789"}
    assert digits <= allowed(matcher)
    matcher.feed(ids("1")[0])
    assert allowed(matcher) == digits
    assert not matcher.complete
    matcher.feed(ids("7")[0])
    assert matcher.complete
    assert allowed(matcher) == EOS


def test_added_tokens_are_named_by_their_text_or_id(compiler: GrammarCompiler) -> None:
    """Also those that a checkpoint does not call special, as Qwen's are."""
    think, tool = ids("<think>")[0], ids("<tool_call>")[0]
    matcher = submit(compiler, f'start: <think> TEXT </think> <[{tool}]> "x" </tool_call>\nTEXT: /[a-z]*/').result()
    assert allowed(matcher) == {think}
    for token in ids("<think>hello</think><tool_call>x</tool_call>"):
        assert token in allowed(matcher)
        matcher.feed(token)
    assert matcher.complete
    assert tool not in allowed(submit(compiler, "start: /(.|\\n)*/").result())


def test_it_may_begin_behind_a_token(compiler: GrammarCompiler) -> None:
    end = ids("</think>")[0]
    matcher = submit(compiler, LETTERS, ids("anything"), after=end).result()
    assert not matcher.active
    matcher.feed(ids("z")[0])
    matcher.feed(end)
    assert matcher.active
    assert ids("z")[0] not in allowed(matcher)
    matcher.feed(ids("a")[0])
    assert matcher.error is None
    resumed = submit(compiler, LETTERS, [*ids("zzz"), end, *ids("ab")], after=end).result()
    assert allowed(resumed) == allowed(matcher)


def test_a_resumed_output_is_replayed(compiler: GrammarCompiler) -> None:
    matcher = submit(compiler, "start: /ab[0-9]/", ids("ab")).result()
    assert allowed(matcher) == {ids(digit)[0] for digit in "0123456789"}
    with pytest.raises(InvalidRequestError, match="the output so far does not follow the grammar"):
        submit(compiler, LETTERS, ids("ax")).result()


def test_an_end_that_does_not_stop_the_request_is_not_offered_while_there_is_a_choice(
    compiler: GrammarCompiler,
) -> None:
    stopping, ignoring = submit(compiler, LETTERS).result(), submit(compiler, LETTERS, stop_ids=frozenset()).result()
    for matcher in (stopping, ignoring):
        matcher.feed(ids("a")[0])
    assert allowed(stopping) == allowed(ignoring) | EOS
    assert not allowed(ignoring) & EOS
    complete = submit(compiler, 'start: "a"', ids("a"), stop_ids=frozenset()).result()
    assert complete.complete
    assert allowed(complete) == EOS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "Empty grammar"),
        ("start: foo", 'unknown name: "foo"'),
        ("start: <no_such_token>", "unknown special token"),
        ("start: /(/", "invalid regex"),
        ("{", "EOF while parsing"),
        (json.dumps({"grammars": [{"json_schema": {"type": "nothing"}}]}), "nothing"),
        ("start: " + "(" * 100_000, "too deeply nested"),
    ],
)
def test_a_grammar_with_a_fault_says_which(compiler: GrammarCompiler, source: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match="the grammar can't be used: ") as caught:
        submit(compiler, source).result()
    assert message in caught.value.message
    assert len(caught.value.message) < 400


def test_what_becomes_too_complex_on_the_way_is_an_error_of_that_matcher(compiler: GrammarCompiler) -> None:
    matcher = submit(compiler, "start: /" + "(a|b|cd?){1,500}" * 100 + "/").result()
    rng = random.Random(0)
    for _ in range(500):
        choices = sorted(allowed(matcher))
        if matcher.error is not None:
            break
        matcher.feed(rng.choice(choices))
    assert matcher.error is not None
    assert len(matcher.error) <= 300
    assert not matcher.complete
