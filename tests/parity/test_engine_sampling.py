"""What requests may want of their tokens, on a whole engine: equal to the reference, however the work is cut up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from common.pb import common_pb2
from common.pb import language_pb2 as pb
from tests.checkpoints import demo_vocabulary, write_checkpoint
from tests.engine_driver import EngineDriver, Outcome
from tests.oracle import MIN_MARGIN, Oracle
from tests.prompts import Prompt, media_key, mixed_prompts

TOKENS = 24
CASES = ("text only", "one image", "image and video")
EOS = demo_vocabulary().end_of_turn
# Cuts everywhere, and a KV cache for about two of the requests.
CRAMPED = {"max_step_tokens": 7, "max_num_seqs": 2, "block_size": 4}
PREEMPTING = {"kv_cache_bytes": 360_000, "block_size": 8, "prefix_caching": False}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A checkpoint, its reference, and prompts with their embeddings."""

    oracle: Oracle
    prompts: dict[str, Prompt]
    embeddings: dict[bytes, torch.Tensor]
    tokenizer: Tokenizer
    cleanup: ExitStack

    def driver(self, **options: object) -> EngineDriver:
        driver = EngineDriver(self.oracle.model_dir, **options)
        driver.supply.update(self.embeddings)
        self.cleanup.callback(driver.close)
        return driver

    def submit(self, driver: EngineDriver, case: str, *, tokens: int = TOKENS, **sampling: object) -> int:
        prompt = self.prompts[case]
        return driver.submit(prompt.ids, prompt.spans, tokens=tokens, **sampling)

    def logprobs(self, case: str, output: Sequence[int]) -> torch.Tensor:
        """The reference's log probabilities [prompt + output, vocab]: row i is about token i + 1."""
        prompt = self.prompts[case]
        inputs = reference_inputs(self.oracle, prompt, output)
        with torch.inference_mode():
            return self.oracle.model(**inputs).logits[0].log_softmax(dim=-1)


def reference_inputs(oracle: Oracle, prompt: Prompt, output: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[*prompt.ids, *output]])
    image, video = oracle.placeholders
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for is_video, pixels, grids in (
        (False, "pixel_values", "image_grid_thw"),
        (True, "pixel_values_videos", "video_grid_thw"),
    ):
        if items := [item for item in prompt.items if item.is_video == is_video]:
            inputs[pixels] = torch.cat([item.values for item in items])
            inputs[grids] = torch.tensor([item.grid for item in items])
    if prompt.items:
        inputs["mm_token_type_ids"] = (ids == image).int() + 2 * (ids == video).int()
    return inputs


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    torch.set_num_threads(1)
    model_dir = write_checkpoint(tmp_path_factory.mktemp("model") / "moe", "moe")
    oracle = Oracle(model_dir)
    oracle.model.generation_config.eos_token_id = None
    prompts = mixed_prompts(oracle.config)
    items = [item for case in CASES for item in prompts[case].items]
    with ExitStack() as cleanup:
        yield Setting(
            oracle=oracle,
            prompts={case: prompts[case] for case in CASES},
            embeddings={media_key(item): oracle.embed(item) for item in items},
            tokenizer=Tokenizer.from_file(str(model_dir / "tokenizer.json")),
            cleanup=cleanup,
        )


# -- penalties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_repetition_penalty_is_that_of_the_reference(setting: Setting, case: str) -> None:
    prompt = setting.prompts[case]
    output = setting.oracle.model.generate(
        **reference_inputs(setting.oracle, prompt),
        max_new_tokens=TOKENS,
        do_sample=False,
        repetition_penalty=1.3,
        suppress_tokens=setting.oracle.placeholders,
        output_scores=True,
        return_dict_in_generate=True,
    )
    top = torch.cat(output.scores).topk(2, dim=-1).values
    assert (top[:, 0] - top[:, 1]).min() > MIN_MARGIN, "the seed gives no clear choices"
    driver = setting.driver()
    handle = setting.submit(driver, case, repetition_penalty=1.3)
    assert driver.run([handle])[0] == output.sequences[0, len(prompt.ids) :].tolist()


def test_rules_hold_in_the_output(setting: Setting) -> None:
    """The engine feeds what it makes into the rules: a strong frequency penalty lets no token come twice."""
    driver = setting.driver()
    free = setting.submit(driver, "text only")
    once = setting.submit(driver, "text only", frequency_penalty=2.0, logit_bias={})
    few = setting.submit(driver, "text only", allowed_token_ids=[300, 301, 302])
    plain = driver.run([free, once, few])[0]
    pair = plain[3:5]
    banned = setting.submit(driver, "text only", bad_words=[pb.TokenSequence(ids=pair)])
    driver.run([banned])
    assert set(driver.outcomes[few].tokens) <= {300, 301, 302}
    without = driver.outcomes[banned].tokens
    assert without[:4] == plain[:4]
    assert pair not in [without[i : i + 2] for i in range(len(without))]
    assert driver.outcomes[once].tokens != plain


# -- log probabilities -----------------------------------------------------------------------------------------------


def check_tokens(told: Sequence[pb.TokenLogprobs], ids: Sequence[int], expected: torch.Tensor, top: int) -> None:
    assert len(told) == len(ids)
    for token, id_, row in zip(told, ids, expected, strict=True):
        assert token.logprob == pytest.approx(row[id_].item(), abs=1e-4)
        assert len(token.top_ids) == top
        best = row.topk(top).values if top else row[:0]
        assert list(token.top_logprobs) == pytest.approx(best.tolist(), abs=1e-4)
        assert list(token.top_logprobs) == pytest.approx(row[list(token.top_ids)].tolist(), abs=1e-4)
        # Neighbours may differ by rounding.
        assert (row > row[id_] + 1e-4).sum() < token.rank <= (row >= row[id_] - 1e-4).sum()


@pytest.mark.parametrize("case", CASES)
def test_logprobs_are_the_models_own(setting: Setting, case: str) -> None:
    """Before temperature, penalties and bans, whoever else is in the batch."""
    driver = setting.driver()
    wishes: list[dict[str, Any]] = [
        {"logprobs": 5},
        {"logprobs": 0, "temperature": 0.7, "seed": 3, "top_k": 20},
        {"logprobs": 2, "repetition_penalty": 1.5, "allowed_token_ids": list(range(300, 340))},
        {},
    ]
    handles = [setting.submit(driver, case, **wish) for wish in wishes]
    outputs = driver.run(handles)
    for wish, handle, output in zip(wishes, handles, outputs, strict=True):
        expected = setting.logprobs(case, output)[len(setting.prompts[case].ids) - 1 :]
        told = driver.outcomes[handle].logprobs
        if wish:
            check_tokens(told, output, expected[:-1], wish["logprobs"])
        else:
            assert not told


@pytest.mark.parametrize("options", [{}, CRAMPED, PREEMPTING], ids=["whole", "cramped", "preempting"])
def test_prompt_logprobs_are_told_once_however_the_prompt_is_computed(
    setting: Setting, options: dict[str, Any]
) -> None:
    driver = setting.driver(**options)
    cases = [*CASES, *CASES]
    handles = [setting.submit(driver, case, prompt_logprobs=3) for case in cases]
    plain = [setting.submit(driver, case) for case in CASES]
    outputs = driver.run([*handles, *plain])
    assert (driver.engine._scheduler.preemptions > 0) == (options is PREEMPTING)
    for case, handle, output in zip(cases, handles, outputs, strict=False):
        ids = setting.prompts[case].ids
        check_tokens(driver.outcomes[handle].prompt_logprobs, ids[1:], setting.logprobs(case, [])[:-1], 3)
        assert output == outputs[len(cases) + CASES.index(case)]


def test_prompt_logprobs_do_not_read_the_prefix_cache_but_fill_it(setting: Setting) -> None:
    driver = setting.driver(block_size=4)
    ids = setting.prompts["text only"].ids
    for wish, cached in (({"prompt_logprobs": 1}, 0), ({"prompt_logprobs": 1}, 0), ({}, 20)):
        handle = setting.submit(driver, "text only", **wish)
        driver.run([handle])
        assert driver.outcomes[handle].finished.cached_tokens == cached
        assert len(driver.outcomes[handle].prompt_logprobs) == (len(ids) - 1 if wish else 0)


def test_a_prompt_of_one_token_has_no_logprobs(setting: Setting) -> None:
    driver = setting.driver()
    handle = driver.submit([300], tokens=2, prompt_logprobs=5)
    assert len(driver.run([handle])[0]) == 2
    assert not driver.outcomes[handle].prompt_logprobs


# -- grammars ----------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = json.dumps({"grammars": [{"json_schema": SCHEMA}]})
REGEX = json.dumps({"grammars": [{"lark_grammar": "start: /(ab|[0-9]{3})-[x-z]{4}/"}]})
LARK = 'start: <think> /[a-z ]{0,20}/ </think> ("yes" | "no")'


def text_of(setting: Setting, outcome: Outcome) -> str:
    assert outcome.finished is not None
    assert outcome.finished.reason == pb.Finished.STOP, outcome
    ids = [token for token in outcome.tokens if token != EOS]
    return str(setting.tokenizer.decode(ids, skip_special_tokens=False))


def check_answer(source: str, text: str) -> None:
    if source == JSON:
        answer = json.loads(text)
        assert list(answer) == ["name", "age", "tags"]
        assert 0 <= answer["age"] <= 99
        assert set(answer["tags"]) <= {"red", "green"}
    elif source == REGEX:
        assert re.fullmatch("(ab|[0-9]{3})-[x-z]{4}", text)
    else:
        assert re.fullmatch("<think>[a-z ]{0,20}</think>(yes|no)", text)


@pytest.mark.parametrize("options", [{}, CRAMPED, PREEMPTING], ids=["whole", "cramped", "preempting"])
def test_grammars_force_valid_answers_and_leave_the_others_alone(setting: Setting, options: dict[str, Any]) -> None:
    """Random weights, greedy and sampled, some with ends ignored, among requests without grammars."""
    alone = setting.driver()
    expected = alone.run([setting.submit(alone, case) for case in CASES])
    driver = setting.driver(**options)
    bound, free = [], []
    for seed in range(4):
        for source in (JSON, REGEX, LARK):
            wish = {"temperature": float(seed > 0), "seed": seed, "ignore_eos": seed % 2 == 1}
            grammar = pb.Grammar(source=source)
            case = CASES[seed % len(CASES)]
            bound.append((source, setting.submit(driver, case, tokens=80, grammar=grammar, **wish)))
        if seed < len(CASES):
            free.append(setting.submit(driver, CASES[seed]))
    driver.run([*free, *(handle for _, handle in bound)])
    assert [driver.outcomes[handle].tokens for handle in free] == expected
    assert (driver.engine._scheduler.preemptions > 0) == (options is PREEMPTING)
    for source, handle in bound:
        check_answer(source, text_of(setting, driver.outcomes[handle]))
    stats = driver.engine.step().stats.values
    assert stats["grammars"] == 3, "requests share what they have in common"
    assert stats["grammar_mask_seconds"] > 0
    assert stats["kv_blocks_used"] == 0


def test_a_complete_answer_ends_at_once(setting: Setting) -> None:
    """Without another forward for the end of text, before min_tokens, and whatever ignore_eos says."""
    driver = setting.driver()
    handles = [
        setting.submit(driver, "text only", grammar=pb.Grammar(source='start: "a"'), **wish)
        for wish in ({"ignore_eos": False}, {"ignore_eos": True}, {"min_tokens": 9}, {"tokens": 1})
    ]
    expected = setting.tokenizer.encode("a", add_special_tokens=False).ids
    for tokens, handle in zip(driver.run(handles), handles, strict=True):
        finished = driver.outcomes[handle].finished
        assert tokens == expected
        assert finished.reason == pb.Finished.STOP
        assert not finished.HasField("stop_token_id")


def test_ends_wait_for_min_tokens_and_ignore_eos_while_the_grammar_goes_on(setting: Setting) -> None:
    driver = setting.driver()
    grammar = pb.Grammar(source="start: /[ab]{1,40}/")
    push = {EOS: 100.0}
    early, later, never = (
        setting.submit(driver, "text only", tokens=60, grammar=grammar, logit_bias=push, **wish)
        for wish in ({"ignore_eos": False}, {"ignore_eos": False, "min_tokens": 7}, {"ignore_eos": True})
    )
    driver.run([early, later, never])
    assert driver.outcomes[early].tokens[1:] == [EOS]
    assert driver.outcomes[later].tokens.index(EOS) == 7
    assert EOS not in driver.outcomes[never].tokens
    assert len(setting.tokenizer.decode(driver.outcomes[never].tokens)) == 40


def test_a_grammar_may_hold_from_behind_a_token(setting: Setting) -> None:
    driver = setting.driver()
    end = setting.tokenizer.token_to_id("</think>")
    free = driver.run([setting.submit(driver, "text only")])[0]
    first = next(i for i in range(5, TOKENS) if free[i] not in free[:i])
    grammar = pb.Grammar(source='start: "yes" | "no"', after_token_id=free[first])
    bound = setting.submit(driver, "text only", grammar=grammar)
    never = setting.submit(driver, "text only", grammar=pb.Grammar(source='start: "x"', after_token_id=end))
    driver.run([bound, never])
    tokens = driver.outcomes[bound].tokens
    assert tokens[: first + 1] == free[: first + 1]
    assert setting.tokenizer.decode(tokens[first + 1 :]) in ("yes", "no")
    if end not in free:
        assert driver.outcomes[never].tokens == free


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"grammar": pb.Grammar(source="start: nothing")}, 'unknown name: "nothing"'),
        ({"grammar": pb.Grammar(source="")}, "Empty grammar"),
        (
            {"grammar": pb.Grammar(source='start: "a"'), "allowed_token_ids": [300]},
            "allowed_token_ids and grammar leave no token",
        ),
        ({"grammar": pb.Grammar(source="start: <|image_pad|>")}, "grammar leave no token"),
        ({"grammar": pb.Grammar(source='start: "a"'), "resumed": [300]}, "does not follow the grammar"),
        ({"grammar": pb.Grammar(source="start: /" + "(a|b|cd?){1,500}" * 100 + "/")}, "can't be followed any further"),
    ],
)
def test_a_grammar_that_can_not_be_followed_ends_its_request_only(
    setting: Setting, sampling: dict[str, Any], message: str
) -> None:
    driver = setting.driver()
    free, bound = setting.submit(driver, "one image"), setting.submit(driver, "one image", tokens=800, **sampling)
    plain = driver.run([free, bound])[0]
    finished = driver.outcomes[bound].finished
    assert finished.error.code == common_pb2.Error.INVALID_REQUEST
    assert message in finished.error.message
    # Its blocks are as good as anybody's.
    again = setting.submit(driver, "one image")
    assert driver.run([again]) == [plain]
    assert driver.outcomes[again].finished.cached_tokens > 0


def test_without_a_tokenizer_grammars_are_refused(setting: Setting, tmp_path: Path) -> None:
    shutil.copytree(setting.oracle.model_dir, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    driver = EngineDriver(tmp_path / "model")
    handle = driver.submit([300], grammar=pb.Grammar(source='start: "a"'))
    driver.run([handle])
    finished = driver.outcomes[handle].finished
    assert finished.error.code == common_pb2.Error.INVALID_REQUEST
    assert "tokenizer.json" in finished.error.message
    assert len(driver.run([driver.submit([300])])[0]) == 16


def test_a_request_that_is_aborted_while_its_grammar_is_compiled_is_gone(setting: Setting) -> None:
    driver = setting.driver()
    handle = setting.submit(driver, "text only", grammar=pb.Grammar(source=JSON))
    driver.engine.abort(handle)
    driver.run([handle])
    assert driver.outcomes[handle].finished.reason == pb.Finished.ABORTED
    assert not driver.engine.compiling


def test_an_answer_that_was_complete_already_ends_without_a_token(setting: Setting) -> None:
    driver = setting.driver()
    made = setting.tokenizer.encode("a", add_special_tokens=False).ids
    handle = setting.submit(driver, "text only", grammar=pb.Grammar(source='start: "a"'), resumed=made)
    assert driver.run([handle]) == [[]]
    assert driver.outcomes[handle].finished.reason == pb.Finished.STOP


# -- seeds -------------------------------------------------------------------------------------------------------------

SEEDED: list[dict[str, Any]] = [
    {"temperature": 0.9, "top_p": 0.95, "seed": 11},
    {"temperature": 1.2, "seed": 12, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "logit_bias": {310: 3.0}},
    {"temperature": 1.0, "top_k": 60, "seed": 13, "choice": 2, "bad_words": [pb.TokenSequence(ids=[305])]},
    {"temperature": 1.0, "seed": 14, "grammar": pb.Grammar(source=JSON), "logprobs": 2},
    {"temperature": 1.0, "min_p": 0.05, "seed": 15, "min_tokens": 20, "presence_penalty": 1.0, "prompt_logprobs": 1},
]


@pytest.mark.parametrize("wish", SEEDED, ids=lambda wish: str(wish["seed"]))
def test_a_seed_decides_whoever_else_is_there_and_wherever_it_goes_on(setting: Setting, wish: dict[str, Any]) -> None:
    case, tokens = "one image", 40
    alone = setting.driver()
    expected = alone.run([setting.submit(alone, case, tokens=tokens, **wish)])[0]

    for options in ({}, CRAMPED, PREEMPTING):
        crowd = setting.driver(**options)
        others = [setting.submit(crowd, CASES[i % 3], tokens=tokens, **SEEDED[i % 5]) for i in range(7)]
        handle = setting.submit(crowd, case, tokens=tokens, **wish)
        assert crowd.run([handle, *others])[0] == expected
        assert (crowd.engine._scheduler.preemptions > 0) == (options is PREEMPTING)

    for made in (1, len(expected) // 2, len(expected) - 1):
        elsewhere = setting.driver(max_step_tokens=11, max_num_seqs=1)
        handle = setting.submit(elsewhere, case, tokens=tokens, resumed=expected[:made], **wish)
        assert elsewhere.run([handle])[0] == expected[made:]
