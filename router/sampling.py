"""From the fields of a request to the sampling parameters that a language server gets."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from common.pb import language_pb2
from router.api.generation import GenerationRequest
from router.model import ServedModel
from router.problems import Problem

_MAX_BAD_WORD_TOKENS = 64  # as the language servers have it


def sampling_params(request: GenerationRequest, model: ServedModel) -> language_pb2.SamplingParams:
    """What the request says, and the checkpoint's defaults where it says nothing; see `for_prompt` for the rest.

    Raises:
        Problem: 400; a token id is outside the vocabulary, or a bad word is too long.
    """
    defaults = model.defaults
    _check_ids("stop_token_ids", request.stop_token_ids, model)
    _check_ids("logit_bias", request.biases, model)
    _check_ids("allowed_token_ids", request.allowed_token_ids or (), model)
    params = language_pb2.SamplingParams(
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        top_k=max(0, defaults.top_k if request.top_k is None else request.top_k),
        min_p=defaults.min_p if request.min_p is None else request.min_p,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        min_tokens=request.min_tokens,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=(
            defaults.repetition_penalty if request.repetition_penalty is None else request.repetition_penalty
        ),
        logit_bias=request.biases,
        allowed_token_ids=request.allowed_token_ids,
        bad_words=_bad_words(request.bad_words, model),
        logprobs=request.wanted_logprobs,
        prompt_logprobs=request.wanted_prompt_logprobs,
    )
    if request.wanted_tokens == 0:
        # The servers make one token at least, which is not shown; nothing about it may end the request otherwise.
        del params.stop_token_ids[:]
        params.ignore_eos = True
    return params


def for_prompt(
    params: language_pb2.SamplingParams, request: GenerationRequest, *, prompt_tokens: int, max_model_len: int
) -> language_pb2.SamplingParams:
    """A copy for one of the prompts of a request: what its length allows, and a draw of its own.

    Raises:
        Problem: 400; prompt and answer do not fit into the context.
    """
    copy = language_pb2.SamplingParams()
    copy.CopyFrom(params)
    copy.max_tokens = _max_tokens(request, prompt_tokens, max_model_len)
    copy.seed = (request.seed if request.seed is not None else secrets.randbits(64)) % 2**64
    return copy


def _max_tokens(request: GenerationRequest, prompt_tokens: int, max_model_len: int) -> int:
    room = max_model_len - prompt_tokens
    wanted = request.wanted_tokens
    if room < 1 or (wanted is not None and wanted > room):
        more = f" and {wanted} tokens of answer are asked for" if wanted else ""
        message = (
            f"This model's maximum context length is {max_model_len} tokens; the prompt has "
            f"{prompt_tokens}{more}. Please shorten the prompt or the answer."
        )
        raise Problem(400, message, param=request.prompt_field, code="context_length_exceeded")
    limit = min(room, request.default_tokens or room) if wanted is None else max(1, wanted)
    if request.min_tokens > limit:
        message = f"min_tokens is {request.min_tokens}; the answer may have only {limit} tokens"
        raise Problem(400, message, param="min_tokens")
    return limit


def _check_ids(name: str, ids: Iterable[int], model: ServedModel) -> None:
    largest = max(ids, default=0)
    if largest >= model.info.vocab_size:
        message = f"{name}: there is no token {largest}; the model has {model.info.vocab_size} tokens"
        raise Problem(400, message, param=name)


def _bad_words(words: Iterable[str], model: ServedModel) -> list[language_pb2.TokenSequence]:
    """Each word as it is written at the start of a text and after a space (as vLLM does)."""
    sequences = []
    for i, word in enumerate(words):
        bare = word.lstrip(" ")
        for written in (bare, " " + bare) if bare else (word,):
            ids = model.tokenize_prompt(written, add_special_tokens=False)
            if len(ids) > _MAX_BAD_WORD_TOKENS:
                message = f"bad_words[{i}]: it has {len(ids)} tokens; at most {_MAX_BAD_WORD_TOKENS} are possible"
                raise Problem(400, message, param=f"bad_words[{i}]")
            sequences.append(language_pb2.TokenSequence(ids=ids))
    return sequences
