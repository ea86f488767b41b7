"""What a fake language server makes of a request."""

from __future__ import annotations

import pytest

from common.errors import InvalidRequestError
from common.pb import language_pb2 as pb
from language_server.fake_request import FakeAdmission, FakeModel, FakeRequest
from language_server.fake_script import Rule, Script
from tests.checkpoints import DEMO_FILES

MODEL = FakeModel.load(DEMO_FILES, max_model_len=0)
EOS = MODEL.eos_ids[0]


def ids(text: str) -> list[int]:
    return list(MODEL.tokenizer.encode(text, add_special_tokens=False).ids)


def admit(rule: Rule, **sampling: object) -> FakeRequest:
    admission = FakeAdmission(MODEL, Script(rules=[rule]), max_item_rows=0, rate=0.0)
    params = pb.SamplingParams(**{"max_tokens": 20, **sampling})
    return admission.admit(pb.Generate(handle=1, prompt_ids=ids("hello"), sampling=params))


def said(request: FakeRequest) -> list[int]:
    """Everything up to the end."""
    tokens: list[int] = []
    while request.made < request.sampling.max_tokens:
        tokens.append(request.token(request.made))
        request.made += 1
        if request.stops(tokens[-1]):
            break
    return tokens


def test_special_tokens_in_an_answer_are_those_tokens() -> None:
    tokens = said(admit(Rule(answer="<think>a</think><tool_call>b</tool_call>")))
    names = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    assert {MODEL.tokenizer.token_to_id(name) for name in names} <= set(tokens)


def test_a_script_can_say_where_tokens_begin_and_end() -> None:
    assert ids("hello") != [*ids("h"), *ids("e"), *ids("llo")]
    assert said(admit(Rule(tokens=["h", "e", "llo", 300]))) == [*ids("h"), *ids("e"), *ids("llo"), 300, EOS]


def test_a_token_that_the_model_has_not_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="the script says token 999999"):
        admit(Rule(tokens=[999999]))


def test_the_first_token_comes_after_the_delay() -> None:
    request = admit(Rule(answer="a b c", delay_seconds=2.0, tokens_per_second=10.0))
    request.started_at = 100.0
    assert [request.due(now) for now in (101.9, 102.01, 102.11)] == [0, 1, 2]
    at_once = admit(Rule(answer="a b c", delay_seconds=2.0))
    at_once.started_at = 100.0
    assert [at_once.due(now) for now in (101.9, 102.01)] == [0, 20]


def test_ends_are_where_they_are_wanted() -> None:
    answer = ids("one two")
    assert said(admit(Rule(answer="one two"))) == [*answer, EOS]
    assert len(said(admit(Rule(answer="one two"), max_tokens=2))) == 2
    assert len(said(admit(Rule(answer="one two"), ignore_eos=True))) == 20
    assert said(admit(Rule(answer="one two"), stop_token_ids=[answer[0]])) == answer[:1]
    # As with a real one: the first min_tokens are no ends.
    assert said(admit(Rule(answer="one two"), min_tokens=9)).index(EOS) == 9
    assert said(admit(Rule(answer="one two"), min_tokens=1, stop_token_ids=[answer[0]])) == [*answer, EOS]


@pytest.mark.parametrize(
    "sampling", [{"logprobs": 101}, {"logit_bias": {10**6: 1.0}}, {"temperature": -1.0}, {"repetition_penalty": -1.0}]
)
def test_wishes_are_checked_like_a_real_servers(sampling: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        admit(Rule(answer="x"), **sampling)
