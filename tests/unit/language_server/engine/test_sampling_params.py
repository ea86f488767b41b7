"""What a request may ask for; each number out of range has its own clear error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import InvalidRequestError
from common.pb import language_pb2 as pb
from language_server.engine.limits import Limits
from language_server.engine.sampling_params import GrammarParams, SamplingParams, read_sampling

LIMITS = Limits(
    vocab_size=100,
    max_model_len=32,
    max_item_rows=0,
    merge_size=1,
    placeholder_ids=frozenset(),
    eos_ids=frozenset([2]),
)
NAN, INF = float("nan"), float("inf")


def test_everything_that_is_asked_for_arrives() -> None:
    params = pb.SamplingParams(
        max_tokens=10,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=7,
        choice=1,
        stop_token_ids=[3],
        min_tokens=4,
        presence_penalty=-1.5,
        frequency_penalty=0.5,
        repetition_penalty=1.5,
        logit_bias={5: -2.0},
        allowed_token_ids=[8, 9, 8],
        bad_words=[pb.TokenSequence(ids=[1, 2])],
        logprobs=0,
        prompt_logprobs=3,
        grammar=pb.Grammar(source='start: "a"', after_token_id=0),
    )
    assert read_sampling(params, LIMITS) == SamplingParams(
        max_tokens=10,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=7,
        choice=1,
        stop_token_ids=frozenset([2, 3]),
        min_tokens=4,
        presence_penalty=-1.5,
        frequency_penalty=0.5,
        repetition_penalty=1.5,
        logit_bias=((5, -2.0),),
        allowed_token_ids=(8, 9),
        bad_words=((1, 2),),
        logprobs=0,
        prompt_logprobs=3,
        grammar=GrammarParams(source='start: "a"', after_token_id=0),
    )


def test_what_is_not_asked_for_is_off() -> None:
    assert read_sampling(pb.SamplingParams(max_tokens=1, ignore_eos=True), LIMITS) == SamplingParams(max_tokens=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *(
            (lambda p, name=name, value=value: setattr(p, name, value), name)
            for name, values in {
                "temperature": (NAN, INF, -1.0, 101.0),
                "top_p": (NAN, -0.1, 1.5),
                "min_p": (NAN, 2.0),
                "presence_penalty": (NAN, INF, -2.5, 2.5),
                "frequency_penalty": (NAN, -INF, -2.5, 2.5),
                "repetition_penalty": (NAN, INF, -1.0, 1e-30, 1e30),
                "max_tokens": (0,),
                "logprobs": (101,),
                "prompt_logprobs": (101,),
            }.items()
            for value in values
        ),
        (lambda p: setattr(p, "min_tokens", 11), "min_tokens is 11, more than max_tokens: 10"),
        (lambda p: p.stop_token_ids.append(100), "a stop token id is outside the vocabulary of 100"),
        (lambda p: p.stop_token_ids.extend([1] * 4097), "stop_token_ids has 4097 entries; at most 4096"),
        (lambda p: p.logit_bias.update({100: 1.0}), "logit_bias is outside the vocabulary"),
        (lambda p: p.logit_bias.update({7: NAN}), "the logit_bias of token 7 is nan"),
        (lambda p: p.logit_bias.update({7: 1e30}), "the logit_bias of token 7"),
        (lambda p: p.logit_bias.update(dict.fromkeys(range(4097), 1.0)), "logit_bias has 4097 entries"),
        (lambda p: p.allowed_token_ids.append(100), "allowed_token_ids is outside the vocabulary"),
        (lambda p: p.bad_words.add(ids=[5, 100]), "bad_words is outside the vocabulary"),
        (lambda p: p.bad_words.add(), "bad_words: one has no tokens"),
        (lambda p: p.bad_words.add(ids=[1] * 65), "bad_words: one has 65 tokens"),
        (lambda p: p.bad_words.extend([pb.TokenSequence(ids=[1])] * 1025), "bad_words has 1025 entries"),
        (lambda p: setattr(p.grammar, "after_token_id", 100), "after_token_id is outside the vocabulary"),
        (lambda p: setattr(p.grammar, "source", "ž" * (1 << 18) + "x"), "the grammar has 524289 bytes"),
    ],
)
def test_each_fault_has_its_error(spoil: Callable[[pb.SamplingParams], None], message: str) -> None:
    params = pb.SamplingParams(max_tokens=10)
    spoil(params)
    with pytest.raises(InvalidRequestError, match=message):
        read_sampling(params, LIMITS)
