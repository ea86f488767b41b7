from __future__ import annotations

import contextlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.pb import language_pb2
from router.answer.output import Output, OutputRules
from tests.unit.router.answer.test_detokenizer import TABLE, TOKENIZER

EOS = 1128
SPLIT_TABLE = [b"on", b"e ", b"tw", b"o", b" th", b"ree"]


def ids_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


def test_text_and_ids_are_taken_once() -> None:
    output = Output(OutputRules(), TABLE)
    ids = ids_of("one two")
    output.feed(ids[:2])
    first = output.take()
    output.feed(ids[2:])
    second = output.take()
    assert first.text + second.text == "one two"
    assert first.ids + second.ids == ids == output.ids
    assert output.take() == ("", [], [])


def numbered(count: int) -> list[language_pb2.TokenLogprobs]:
    return [language_pb2.TokenLogprobs(rank=rank) for rank in range(count)]


def test_logprobs_end_where_the_text_does() -> None:
    """Of what a stop string took away there are none, but of a token that is half shown."""
    for stop, shown in (("two", 2), ("o thr", 3)):
        output = Output(OutputRules(stop=(stop,)), SPLIT_TABLE)
        ids = [SPLIT_TABLE.index(piece) for piece in (b"on", b"e ", b"tw", b"o", b" th", b"ree")]
        logprobs = numbered(len(ids))
        output.feed(ids, logprobs)
        taken = output.take()
        assert taken.text == "one two three"[: "one two three".index(stop)]
        assert taken.ids == output.ids
        assert taken.logprobs == logprobs[:shown] + [None] * (len(output.ids) - shown)


def test_tokens_that_are_no_part_of_the_text_have_no_logprobs() -> None:
    output = Output(OutputRules(stop_ids=frozenset({EOS}), hidden=frozenset({1127})), TABLE)
    one, two = ids_of("one")[0], ids_of("two")[0]
    output.feed([one, 1127, two, EOS], numbered(4))
    assert output.take().logprobs == [numbered(1)[0], None, numbered(3)[2], None]


def test_a_silent_one_shows_nothing() -> None:
    output = Output(OutputRules(silent=True), TABLE)
    output.feed(ids_of("one"), numbered(1))
    output.finish()
    assert (output.take(), output.ids) == (("", [], []), [])


@given(
    st.lists(st.sampled_from(["a", "é", "🌋", "b", " ", "é🌋"]), max_size=12).map("".join),
    st.lists(st.text("aé🌋b ", min_size=1, max_size=3), max_size=2),
    st.booleans(),
    st.data(),
)
def test_tokens_come_with_their_text(text: str, stops: list[str], include: bool, data: st.DataObject) -> None:
    """However a text is cut into tokens, and whatever is held back: taken bit by bit it is the same as taken at once,
    and a token comes neither before nor after its last character."""
    content = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=12)) | {0, len(content)})
    table = [content[start:end] for start, end in pairwise(cuts)]
    logprobs = numbered(len(table))
    rules = OutputRules(stop=tuple(stops), include_stop=include)
    whole, output = Output(rules, table), Output(rules, table)
    whole.feed(range(len(table)), logprobs)
    whole.finish()
    shown, ids, known = "", [], []
    for token in range(len(table)):
        output.feed([token], logprobs[token : token + 1])
        taken = output.take()
        shown, ids, known = shown + taken.text, ids + taken.ids, known + taken.logprobs
        if output.stop_string is not None:
            break
        assert len(content[: cuts[len(ids)]].decode(errors="ignore")) <= len(shown)
        following = content[: cuts[len(ids) + 1]] if len(ids) < len(table) else None
        if following is not None and len(ids) <= token:
            with contextlib.suppress(UnicodeDecodeError):
                assert len(following.decode()) > len(shown), "a token was held back that is all shown"
    output.finish()
    taken = output.take()
    shown, ids, known = shown + taken.text, ids + taken.ids, known + taken.logprobs
    assert (shown, ids, known) == whole.take()
    assert ids == output.ids
    assert text.startswith(shown)
    kept = [token for token, logprob in zip(ids, known, strict=True) if logprob is not None]
    spelled = b"".join(table[token] for token in kept)
    assert spelled.startswith(shown.encode())
    assert all(len(content[: cuts[token]].decode(errors="ignore")) < len(shown) for token in kept)
    if output.stop_string is None:
        assert spelled == content
        assert shown == text


def test_tokens_after_a_stop_string_do_not_count() -> None:
    output = Output(OutputRules(stop=("two",)), TABLE)
    output.feed(ids_of("one two three"))
    assert output.stop_string == "two"
    assert output.take()[0] == "one "
    assert len(output.ids) < len(ids_of("one two three"))


def test_what_was_held_back_is_shown_at_the_end() -> None:
    output = Output(OutputRules(stop=("one twenty",)), TABLE)
    output.feed(ids_of("one tw"))
    assert output.take()[0] == ""
    output.finish()
    assert output.take()[0] == "one tw"


def test_stop_tokens_are_shown_only_if_included() -> None:
    rules = {"stop_ids": frozenset({EOS})}
    hidden, shown = Output(OutputRules(**rules), TABLE), Output(OutputRules(**rules, include_stop=True), TABLE)  # type: ignore[arg-type]
    for output in (hidden, shown):
        output.feed([*ids_of("one"), EOS])
    assert hidden.take()[0] == "one"
    assert shown.take()[0] == "one<|im_end|>"


def test_half_a_character_is_never_shown() -> None:
    ids = ids_of("🌋")
    assert len(ids) > 1
    output = Output(OutputRules(), TABLE)
    output.feed(ids[:-1])
    output.finish()
    assert output.take()[0] == ""
