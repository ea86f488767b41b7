"""What every request that generates text may say, whatever comes before the text."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from router.api.request import RequestModel, text_or_list
from router.problems import Problem

_MAX_STOPS = 32


class StreamOptions(RequestModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]


class GenerationRequest(RequestModel):
    """Length, sampling, stops, and what the answer shows."""

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
            Annotated[str, Tag("text")] | Annotated[list[str], Field(max_length=_MAX_STOPS), Tag("list")],
            Discriminator(text_or_list),
        ]
        | None
    ) = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024, fail_fast=True, default_factory=list)]
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_timings: bool = False
    return_token_ids: bool = False

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wanted_tokens(self) -> int | None:
        """Of the answer, at most; None: as many as there is room for."""
        return self.max_tokens

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
        limit = self.wanted_tokens
        if limit is not None and self.min_tokens > limit:
            raise Problem(400, f"min_tokens is {self.min_tokens}, over max_tokens", param="min_tokens")
