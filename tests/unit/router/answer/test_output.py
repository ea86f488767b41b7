from __future__ import annotations

from common.pb import language_pb2
from router.answer.output import Output, OutputRules
from tests.unit.router.answer.test_detokenizer import TABLE, TOKENIZER

EOS = 1128


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


def test_logprobs_end_where_the_text_does() -> None:
    output = Output(OutputRules(stop=("two",)), TABLE)
    ids = ids_of("one two three")
    logprobs = [language_pb2.TokenLogprobs(rank=rank) for rank in range(len(ids))]
    output.feed(ids, logprobs)
    assert output.take().logprobs == logprobs[: len(output.ids)]


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
