"""Each rule against an independent formula: the processors of `transformers`, or OpenAI's as it is documented."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from language_server.engine.logits_rules import LogitsRules, RowRules, apply_rules
from language_server.engine.sampling_params import SamplingParams

VOCAB = 50
PROMPT = [1, 2, 3, 2, 1]
OUTPUT = [3, 4, 4, 5, 4]


def logits(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(3))


def row_rules(
    row: int, prompt: Sequence[int], output: list[int], *, may_end: bool = False, **sampling: object
) -> RowRules:
    rules = LogitsRules.of(SamplingParams(max_tokens=100, **sampling), prompt)
    assert rules is not None
    for token in output:
        rules.add(token)
    return RowRules(row=row, rules=rules, banned=rules.banned(output, may_end=may_end))


def applied(output: list[int] = OUTPUT, **sampling: object) -> torch.Tensor:
    result = logits()
    apply_rules(result, [row_rules(0, PROMPT, output, **sampling)])
    return result


def test_nothing_wanted_is_nothing() -> None:
    assert LogitsRules.of(SamplingParams(max_tokens=5, temperature=0.7, top_k=3, logprobs=4), PROMPT) is None


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([PROMPT + OUTPUT]), logits())
    torch.testing.assert_close(applied(repetition_penalty=penalty), expected)


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0.0), (0.0, 1.5), (-0.7, 0.3)])
def test_frequency_and_presence_look_at_the_output_only(frequency: float, presence: float) -> None:
    expected = logits()
    for token, count in Counter(OUTPUT).items():
        expected[0, token] -= frequency * count + presence
    torch.testing.assert_close(applied(frequency_penalty=frequency, presence_penalty=presence), expected)


def test_prompt_tokens_that_the_repetition_penalty_counts_are_no_output() -> None:
    expected = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([PROMPT + OUTPUT]), logits())
    expected[0, list(set(OUTPUT))] -= 1.0
    torch.testing.assert_close(applied(repetition_penalty=1.4, presence_penalty=1.0), expected)


def test_bias_is_added() -> None:
    expected = SequenceBiasLogitsProcessor({(7,): 4.0, (3,): -100.0})(torch.tensor([PROMPT]), logits())
    torch.testing.assert_close(applied(logit_bias=((7, 4.0), (3, -100.0))), expected)


def test_only_allowed_tokens_stay() -> None:
    result = applied(allowed_token_ids=(9, 30))
    kept = result.isfinite()[0]
    assert kept.nonzero().flatten().tolist() == [9, 30]
    assert torch.equal(result[0, kept], logits()[0, kept])


@pytest.mark.parametrize("output", [[], [5], [4, 5], [5, 4], OUTPUT, [6, 7, 8]])
def test_bad_words_are_those_of_transformers(output: list[int]) -> None:
    words = [[11], [4, 5], [5, 4, 12], [7, 8, 9], [4, 4]]
    # What a long word needs before it has to be there in full: the reference can't look before the first token either.
    seen = torch.tensor([[VOCAB - 1] * 3 + output])
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=VOCAB - 2)(seen, logits())
    torch.testing.assert_close(applied(output, bad_words=tuple(map(tuple, words))), expected)


def test_a_bad_word_does_not_begin_in_the_prompt() -> None:
    assert applied([], bad_words=((2, 1, 30), (1, 31))).isfinite().all()


@pytest.mark.parametrize("made", range(5))
def test_no_end_before_min_tokens(made: int) -> None:
    reference = MinNewTokensLengthLogitsProcessor(len(PROMPT), 3, [6, 7])
    expected = reference(torch.tensor([PROMPT + [9] * made]), logits())
    torch.testing.assert_close(applied([9] * made, min_tokens=3, stop_token_ids=frozenset([6, 7])), expected)
    assert applied([9] * made, min_tokens=3, stop_token_ids=frozenset([6, 7]), may_end=True).isfinite().all()


def test_the_order_is_penalties_bias_then_bans() -> None:
    result = applied(
        repetition_penalty=2.0,
        frequency_penalty=1.0,
        presence_penalty=0.25,
        logit_bias=((4, 8.0), (10, 50.0)),
        allowed_token_ids=(4, 10),
        bad_words=((10,),),
    )
    before = logits()[0, 4].item()
    repeated = before / 2 if before > 0 else before * 2
    assert result[0, 4].item() == pytest.approx(repeated - 3 - 0.25 + 8)
    assert result.isfinite().sum() == 1


def test_a_batch_does_to_each_row_what_is_done_to_it_alone() -> None:
    rng = random.Random(0)
    wishes: list[dict[str, object]] = [
        {},
        {"repetition_penalty": 1.7, "frequency_penalty": 0.3},
        {"logit_bias": ((3, 1.0), (4, 2.0))},
        {"allowed_token_ids": tuple(range(20))},
        {},
        {"presence_penalty": 1.0, "bad_words": ((4,), (1, 2)), "allowed_token_ids": (1, 2, 4)},
        {"repetition_penalty": 0.8, "logit_bias": ((30, -1.0),), "min_tokens": 99, "stop_token_ids": frozenset([5])},
    ]
    outputs = [[rng.randrange(10) for _ in range(rng.randrange(8))] for _ in wishes]
    parts = [
        row_rules(row, [row, row + 1], output, **wish)
        for row, (wish, output) in enumerate(zip(wishes, outputs, strict=True))
        if wish
    ]
    together = logits(len(wishes))
    apply_rules(together, parts)
    for row, wish in enumerate(wishes):
        alone = logits(len(wishes))[row : row + 1]
        if wish:
            apply_rules(alone, [row_rules(0, [row, row + 1], outputs[row], **wish)])
        assert torch.equal(together[row : row + 1], alone), wish
