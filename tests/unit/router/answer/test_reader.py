"""What a model writes comes out the same, however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.answer.reader import ModelReader
from router.answer.reasoning import ReasoningReader
from router.answer.shape import Read
from router.answer.tool_calls import ToolCallReader

OPEN, CLOSE = 1150, 1151  # <think> and </think> of the demo's tokenizer

# What outputs are made of, so that random ones get everywhere.
SNIPPETS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": ',
        '{"name": "f"',
        '{"arguments": {"b": 2}, "name": "g"}',
        '{"a": "</tool_call>"}',
        '{"a": [1, {"b": "\\"}{"}]}',
        "}",
        "{",
        '"',
        "\\",
        "<",
        "</",
        "\n",
        "  ",
        "hello",
        "é🌋",
    ]
)
OUTPUTS = st.lists(SNIPPETS, max_size=14).map("".join)


def reader(
    *, thinks: bool | None = False, tools: bool = True, most: int | None = None, show: bool = True
) -> ModelReader:
    """`thinks`: None if it may."""
    return ModelReader(
        reasoning=None if thinks is False else ReasoningReader(begun=bool(thinks), marks=(OPEN, CLOSE)),
        calls=ToolCallReader(most=most) if tools else None,
        show_reasoning=show,
    )


def read_all(made: ModelReader, pieces: list[str]) -> list[Read]:
    return [read for piece in pieces for read in made.feed(piece, [])] + made.finish()


def shown(reads: list[Read]) -> dict[str, Any]:
    calls: dict[int, list[str]] = {}
    for call in (call for read in reads for call in read.calls):
        if call.index not in calls:
            assert call.id is not None
            assert call.id.startswith("call_")
            assert call.name
            calls[call.index] = [call.name, ""]
        else:
            assert call.id is None
            assert call.name is None
        calls[call.index][1] += call.arguments
    assert list(calls) == list(range(len(calls)))
    return {
        "text": "".join(read.text for read in reads),
        "reasoning": "".join(read.reasoning for read in reads),
        "calls": [tuple(call) for call in calls.values()],
    }


def read(text: str, **options: Any) -> dict[str, Any]:
    return shown(read_all(reader(**options), [text]))


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = draw(OUTPUTS)
    ends = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return text, [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(cut(), st.sampled_from([False, None, True]), st.booleans(), st.sampled_from([None, 1]))
def test_the_pieces_do_not_matter(
    made: tuple[str, list[str]], thinks: bool | None, tools: bool, most: int | None
) -> None:
    text, pieces = made
    options: dict[str, Any] = {"thinks": thinks, "tools": tools, "most": most}
    whole = read(text, **options)
    assert shown(read_all(reader(**options), pieces)) == whole
    assert shown(read_all(reader(**options), list(text))) == whole


@settings(max_examples=300, deadline=None)
@given(OUTPUTS.filter(lambda text: "<tool_call>" not in text))
def test_text_without_calls_stays_as_it_is(text: str) -> None:
    assert read(text) == {"text": text, "reasoning": "", "calls": []}


NAMES = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), min_size=1, max_size=8)
ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("</tool_call>"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.dictionaries(st.text(max_size=5), ARGUMENTS)), max_size=3),
    st.booleans(),
    st.sampled_from(["", "I look.", "  two\n\nlines\n"]),
)
def test_every_call_comes_out_as_it_was_written(
    calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, text: str
) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=ascii_only)) for name, arguments in calls]
    blocks = [
        f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in written
    ]
    got = read(text + "\n" + "\n".join(blocks))
    assert got["calls"] == written
    assert got["text"] == (text.rstrip() if calls else text + "\n")


def test_the_name_comes_first_and_arguments_as_they_are_written() -> None:
    made = reader()
    pieces = [
        "Look: ",
        "<tool_call>",
        '\n{"name": ',
        '"weather", "argu',
        'ments": {"ci',
        'ty": "Bo',
        'nn"}',
        "}\n</tool",
        "_call>",
    ]
    reads = [made.feed(piece, []) for piece in pieces]
    assert reads[0] == [Read(text="Look:", span=(0, 5))]
    assert [[(call.name, call.arguments) for read in step for call in read.calls] for step in reads] == [
        [],
        [],
        [],
        [],
        [("weather", '{"ci')],  # in one piece: some clients read only one of an event
        [(None, 'ty": "Bo')],
        [(None, 'nn"}')],
        [],
        [],
    ]
    assert made.finish() == []
    assert made.called


@pytest.mark.parametrize(
    ("written", "calls"),
    [
        ('{"arguments": {"a": 1}, "name": "f"}', [("f", '{"a": 1}')]),
        ('{"name": "f"}', [("f", "{}")]),
        ('{"name": "f", "arguments": null}', [("f", "{}")]),
        ('{"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', [("f", '{"a": 1}')]),
        ('{"name": "f", "arguments": {"a": 1}', [("f", '{"a": 1}')]),  # the outer brace is missing
        ('{"name": "f", "arguments": {"a": 1}, "id": 7}', [("f", '{"a": 1}')]),
        ('{"name": "f", "arguments": {"a": [1', [("f", '{"a": [1')]),  # not written to its end: shown as it is
    ],
)
def test_unusual_calls(written: str, calls: list[tuple[str, str]]) -> None:
    for space in ("", "\n"):
        got = read(f"<tool_call>{space}{written}</tool_call>")
        assert got == {"text": "", "reasoning": "", "calls": calls}


@pytest.mark.parametrize(
    "written",
    ["", "f(1)", "{}", '{"name": 3, "arguments": {}}', '{"name": "f", "arguments": [1]}', "[" * 5000, '{"name": ""}'],
)
def test_what_is_no_call_is_text(written: str) -> None:
    text = f"See <tool_call>{written}</tool_call> there"
    assert read(text) == {"text": text, "reasoning": "", "calls": []}
    assert read(f"See <tool_call>{written}") == {"text": f"See <tool_call>{written}", "reasoning": "", "calls": []}


def test_a_call_that_ends_with_the_output_is_one() -> None:
    assert read('<tool_call>\n{"name": "f", "arguments": {"a": 1}}')["calls"] == [("f", '{"a": 1}')]
    assert read('<tool_call>\n{"name": "f"}')["calls"] == [("f", "{}")]
    assert read('<tool_call>\n{"name": "f", "arguments": {"a": "x')["calls"] == [("f", '{"a": "x')]


def test_text_around_calls() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read(f"a\n{call}\n{call}\nb") == {"text": "a\n\n\nb", "reasoning": "", "calls": [("f", "{}")] * 2}
    assert read(f"\n{call}\n b")["text"] == "b"
    assert read('<tool_call>\n{"name": "f", "arguments": {}}\nthat was it')["text"] == "that was it"


def ordered(reads: list[Read]) -> list[str]:
    """Names of what comes, neighbours of one kind together."""
    parts = []
    for read in reads:
        parts += [f"text {read.text}"] if read.text else []
        parts += [f"call {call.name}" for call in read.calls if call.name]
    return parts


def test_the_order_of_text_and_calls() -> None:
    call = '<tool_call>\n{"name": "%s", "arguments": {"a": 1}}\n</tool_call>'
    output = f"a\n{call % 'f'} b\n{call % 'g'}{call % 'h'}c"
    assert ordered(read_all(reader(), [output])) == ["text a", "call f", "text \n b", "call g", "call h", "text \nc"]
    assert ordered(read_all(reader(), list(output))) == ordered(read_all(reader(), [output]))


@settings(max_examples=300, deadline=None)
@given(cut(), st.sampled_from([False, None, True]), st.booleans())
def test_a_text_knows_where_it_stood(made: tuple[str, list[str]], thinks: bool | None, tools: bool) -> None:
    text, pieces = made
    ends = []
    for read in read_all(reader(thinks=thinks, tools=tools), pieces):
        if read.text:
            begin, end = read.span
            assert begin < end
            # what stands before is white space from the other side of calls
            assert read.text.endswith(text[begin:end])
            assert not read.text.removesuffix(text[begin:end]).strip()
            ends += [begin, end]
    assert ends == sorted(ends)


def test_calls_beyond_the_limit_are_dropped() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    got = read(f"{call}\n{call}\nx", most=1)
    assert got == {"text": "x", "reasoning": "", "calls": [("f", '{"a": 1}')]}


@pytest.mark.parametrize("thinks", [True, None])
def test_reasoning_and_answer(thinks: bool | None) -> None:
    start = "" if thinks else "<think>"
    got = read(f"{start}\nhm,\n well\n</think>\n\n  It is so.\n", thinks=thinks)
    assert got == {"text": "  It is so.\n", "reasoning": "hm,\n well", "calls": []}
    assert read(f"{start}\nhm,\n", thinks=thinks) == {"text": "", "reasoning": "hm,", "calls": []}
    assert read(f"{start}hm</thi", thinks=thinks) == {"text": "", "reasoning": "hm</thi", "calls": []}
    hidden = read(f"{start}\nhm</think>x", thinks=thinks, show=False)
    assert hidden == {"text": "x", "reasoning": "", "calls": []}


def test_calls_are_looked_for_behind_the_reasoning_only() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    got = read(f"maybe {call}?</think>\n\n{call}", thinks=True)
    assert got == {"text": "", "reasoning": f"maybe {call}?", "calls": [("f", "{}")]}


def test_an_answer_without_reasoning() -> None:
    for text in ("It is <think>so</think>.", " \n<thin", "", "  "):
        assert read(text, thinks=None) == {"text": text, "reasoning": "", "calls": []}


def count(*, begun: bool, text: str, tokens: list[int]) -> int:
    made = ReasoningReader(begun=begun, marks=(OPEN, CLOSE))
    made.count(tokens)
    made.feed(text)
    return made.tokens


def test_reasoning_tokens() -> None:
    assert count(begun=True, text="ab</think>c", tokens=[5, 6, CLOSE, 7]) == 2
    assert count(begun=False, text="<think>ab</think>c", tokens=[OPEN, 5, 6, CLOSE, 7, OPEN, 8]) == 2
    assert count(begun=False, text="c<think>ab</think>", tokens=[7, OPEN, 5, 6, CLOSE]) == 0
    assert count(begun=True, text="ab", tokens=[5, 6]) == 2
    piecewise = ReasoningReader(begun=False, marks=(OPEN, CLOSE))
    for text, token in [("<think>", OPEN), ("a", 5), ("</think>", CLOSE), ("x", 6), ("<think>", OPEN), ("y", 7)]:
        piecewise.count([token])
        piecewise.feed(text)
    assert piecewise.tokens == 1
