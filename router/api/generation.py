"""What every request that generates text may say, whatever comes before the text."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from router.api.request import RequestModel, text_or_list
from router.problems import Problem

MAX_LOGPROBS = 20  # likeliest tokens shown in the place of one: OpenAI's limit, and vLLM's default
_MAX_STOPS = 32
_MAX_STOP_CHARACTERS = 500  # of each: text that may begin one is looked at with every token
_MAX_TOKEN_IDS = 4096  # in a list that names tokens
_MAX_BAD_WORDS = 256


class StreamOptions(RequestModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] = False


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]
LogprobCount = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
StopString = Annotated[str, Field(max_length=_MAX_STOP_CHARACTERS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class GenerationRequest(RequestModel):
    """Length, sampling, stops, and what the answer shows."""

    prompt_field: ClassVar[str] = "messages"  # whose length is to blame if prompt and answer do not fit
    default_tokens: ClassVar[int | None] = None  # of an answer, if it does not say; None: as many as there is room for

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] = 1
    max_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None  # 0 and -1: off
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: (
        Annotated[
            Annotated[StopString, Tag("#text")]
            | Annotated[list[StopString], Field(max_length=_MAX_STOPS), Tag("#list")],
            Discriminator(text_or_list),
        ]
        | None
    ) = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024, fail_fast=True, default_factory=list)]
    ignore_eos: bool = False
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=_MAX_TOKEN_IDS, default_factory=dict)
    ]
    allowed_token_ids: (
        Annotated[list[TokenId], Field(min_length=1, max_length=_MAX_TOKEN_IDS, fail_fast=True)] | None
    ) = None
    bad_words: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(max_length=_MAX_BAD_WORDS, fail_fast=True, default_factory=list),
    ]
    prompt_logprobs: LogprobCount | None = None
    return_tokens_as_token_ids: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_timings: bool = False
    return_token_ids: bool = False

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wanted_tokens(self) -> int | None:
        """Of the answer, at most; None: see `default_tokens`."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens to show in the place of each one of the answer; None: no logprobs at all."""
        return None

    @property
    def wanted_prompt_logprobs(self) -> int | None:
        """Likewise, of the prompt."""
        return self.prompt_logprobs

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id."""
        return {int(token): bias for token, bias in self.logit_bias.items()}

    def check(self, *, max_choices: int) -> None:
        """What concerns several fields, or the configuration.

        Raises:
            Problem: 400, names the field.
        """
        if self.n > max_choices:
            raise Problem(400, f"n is {self.n}; at most {max_choices} choices are made", param="n")
        if not all(self.stop_strings):
            raise Problem(400, "a stop string can't be empty", param="stop")
        if self.stream_options is not None and not self.stream:
            raise Problem(400, "stream_options are for streams: stream is not true", param="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise Problem(400, "prompt_logprobs are not for streams", param="prompt_logprobs")
        for token in self.logit_bias:
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise Problem(400, f"logit_bias: {token[:20]!r} is not a token id", param="logit_bias")
        limit = self.wanted_tokens
        if limit is not None and self.min_tokens > limit:
            message = f"min_tokens is {self.min_tokens}; the answer may have only {limit} tokens"
            raise Problem(400, message, param="min_tokens")
