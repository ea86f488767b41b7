from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.fingerprint import ROUTER_FILES
from common.pb import language_pb2
from router.api.chat import parse_chat_request
from router.api.completions import parse_completion_request
from router.model import SamplingDefaults, ServedModel
from router.problems import Problem
from router.sampling import for_prompt, sampling_params
from tests.integration.router.peers import INFO, MODEL_DIR


def build(folder: Path = MODEL_DIR) -> ServedModel:
    files = {name: (folder / name).read_bytes() for name in ROUTER_FILES if (folder / name).is_file()}
    return ServedModel.build(INFO, files)


MODEL = build()


def sampling(*, model: ServedModel = MODEL, prompt_tokens: int = 10, **fields: Any) -> language_pb2.SamplingParams:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    request = parse_chat_request(body, max_choices=4).request
    params = sampling_params(request, model)
    return for_prompt(params, request, prompt_tokens=prompt_tokens, max_model_len=100)


def completion(**fields: Any) -> language_pb2.SamplingParams:
    request = parse_completion_request({"prompt": "hi", **fields}, max_choices=4).request
    return for_prompt(sampling_params(request, MODEL), request, prompt_tokens=10, max_model_len=100)


def text_of(ids: Any) -> str:
    text: str = MODEL.tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


def test_defaults_are_the_checkpoints() -> None:
    defaults = SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20, min_p=0.1, repetition_penalty=1.05)
    params = sampling(model=replace(MODEL, defaults=defaults))
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.8, 20)
    assert (params.min_p, params.repetition_penalty) == (0.1, 1.05)
    assert (params.presence_penalty, params.frequency_penalty) == (0, 0)
    told = sampling(
        model=replace(MODEL, defaults=defaults), temperature=0, top_p=1, top_k=-1, min_p=0, repetition_penalty=1
    )
    assert (told.temperature, told.top_p, told.top_k, told.min_p, told.repetition_penalty) == (0, 1, 0, 0, 1)


def test_nothing_is_asked_for_unless_the_request_does() -> None:
    params = sampling()
    for name in ("logprobs", "prompt_logprobs", "grammar"):
        assert not params.HasField(name)
    for name in ("logit_bias", "allowed_token_ids", "bad_words", "stop_token_ids"):
        assert not getattr(params, name)


def test_seeds() -> None:
    assert sampling(seed=-1).seed == 2**64 - 1
    assert sampling().seed != sampling().seed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [5, 1252]}, "stop_token_ids"),
        ({"logit_bias": {"5": 1, "1252": 1}}, "logit_bias"),
        ({"allowed_token_ids": [1252]}, "allowed_token_ids"),
    ],
)
def test_tokens_that_the_model_lacks(fields: Any, param: str) -> None:
    with pytest.raises(Problem, match="1252") as refused:
        sampling(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_bad_words_are_banned_at_the_start_and_after_a_space() -> None:
    words = [text_of(sequence.ids) for sequence in sampling(bad_words=["one", "  two", " ", "<|im_end|>"]).bad_words]
    assert words == ["one", " one", "two", " two", " ", "<|im_end|>", " <|im_end|>"]
    assert sampling(bad_words=["<|im_end|>"]).bad_words[0].ids == [1128]


def test_a_bad_word_has_an_end() -> None:
    with pytest.raises(Problem) as refused:
        sampling(bad_words=["one", "🌋" * 60])
    assert refused.value.param == "bad_words[1]"


def test_lengths() -> None:
    assert sampling().max_tokens == 90
    assert sampling(max_tokens=90).max_tokens == 90
    assert completion().max_tokens == 16
    assert completion(max_tokens=20).max_tokens == 20
    assert sampling(prompt_tokens=99).max_tokens == 1
    for fields in ({"prompt_tokens": 100}, {"max_tokens": 91}):
        with pytest.raises(Problem, match="maximum context length is 100") as refused:
            sampling(**fields)
        assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")
    with pytest.raises(Problem) as refused:
        completion(max_tokens=91)
    assert refused.value.param == "prompt"
    for min_tokens, told in ((91, sampling), (17, completion)):
        with pytest.raises(Problem) as refused:
            told(min_tokens=min_tokens)
        assert refused.value.param == "min_tokens"
    assert completion(min_tokens=16).min_tokens == 16


def test_no_tokens_at_all() -> None:
    """The servers make one in any case; nothing of it may matter."""
    params = completion(max_tokens=0, echo=True, logprobs=2, stop_token_ids=[5])
    assert (params.max_tokens, params.ignore_eos, list(params.stop_token_ids)) == (1, True, [])
    assert (params.logprobs, params.prompt_logprobs) == (2, 2)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_checkpoint_with_an_impossible_penalty(value: float) -> None:
    with pytest.raises(ValueError, match="repetition_penalty"):
        SamplingDefaults.of({"repetition_penalty": value})


def test_each_prompt_has_its_own_draw_unless_there_is_a_seed() -> None:
    def seeds(**fields: Any) -> set[int]:
        request = parse_completion_request({"prompt": ["a", "a"], **fields}, max_choices=4).request
        params = sampling_params(request, MODEL)
        return {for_prompt(params, request, prompt_tokens=1, max_model_len=100).seed for _ in request.prompts}

    assert len(seeds()) == 2
    assert seeds(seed=-1) == {2**64 - 1}
