"""The body of a chat completion, checked to the last field.

Every field is of one of four kinds: honoured (declared in `ChatRequest`), accepted because doing nothing is what it
means, known but not to be honoured here (a 400 that names it, unless its value asks for nothing), and unknown (told to
the client in the header X-Ignored-Fields). `null` always means "not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)

from router.api.fields import ACCEPTED, UNSUPPORTED
from router.api.messages import MAX_ENTRIES, Message, RequestModel, text_or_list
from router.problems import Problem

_MAX_STOPS = 32


class StreamOptions(RequestModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class MediaOptions(RequestModel):
    """Overrides of the checkpoint's resize and sampling rules."""

    min_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    max_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    num_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    min_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    max_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]


class ChatRequest(RequestModel):
    """What is honoured of OpenAI's chat completions, and of what vLLM adds to them."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] = 1
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
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
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Annotated[dict[str, Any], Field(default_factory=dict)]
    mm_processor_kwargs: MediaOptions = MediaOptions()

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


@dataclass(frozen=True, kw_only=True)
class Parsed:
    request: ChatRequest
    ignored: tuple[str, ...]  # paths of unknown fields


def parse_chat_request(body: Any, *, max_choices: int) -> Parsed:
    """Raises Problem (400) that names the field."""
    if not isinstance(body, dict):
        raise Problem(400, "the request body has to be a JSON object")
    for name, neutral in UNSUPPORTED.items():
        value = body.get(name)
        asks = not any(value == taken and isinstance(value, bool) == isinstance(taken, bool) for taken in neutral)
        if value is not None and asks:
            raise Problem(400, f"{name} is not supported by this server", param=name, code="unsupported_parameter")
    known = {name: value for name, value in body.items() if name not in UNSUPPORTED and name not in ACCEPTED}
    try:
        request = ChatRequest.model_validate(known)
    except ValidationError as error:
        raise _problem(error, known) from None
    _check(request, max_choices)
    return Parsed(request=request, ignored=tuple(_unknown_fields(request)))


def _check(request: ChatRequest, max_choices: int) -> None:
    """What concerns several fields, or the configuration."""
    if request.n > max_choices:
        raise Problem(400, f"n is {request.n}; at most {max_choices} choices are made", param="n")
    if not all(request.stop_strings):
        raise Problem(400, "a stop string can't be empty", param="stop")
    if request.stream_options is not None and not request.stream:
        raise Problem(400, "stream_options are for streams: stream is not true", param="stream_options")
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise Problem(400, "max_tokens and max_completion_tokens disagree", param="max_completion_tokens")
    limit = next(iter(limits), None)
    if limit is not None and request.min_tokens > limit:
        raise Problem(400, f"min_tokens is {request.min_tokens}, over max_tokens", param="min_tokens")
    asked_for_prompt = "add_generation_prompt" in request.model_fields_set and request.add_generation_prompt
    if request.continue_final_message and asked_for_prompt:
        text = "continue_final_message and add_generation_prompt exclude each other"
        raise Problem(400, text, param="continue_final_message")
    if extra := request.mm_processor_kwargs.model_extra:
        name = f"mm_processor_kwargs.{next(iter(extra))}"
        raise Problem(400, f"{name} is not supported by this server", param=name, code="unsupported_parameter")
    for i, message in enumerate(request.messages):
        # these change what a message says, so they can't be passed over as other unknown fields are
        for name in ("audio", "function_call", "refusal"):
            if name in (message.model_extra or {}):
                param = f"messages[{i}].{name}"
                raise Problem(
                    400, f"{param} is not supported by this server", param=param, code="unsupported_parameter"
                )


def _unknown_fields(value: Any, path: str = "") -> list[str]:
    if isinstance(value, list):
        return [name for i, entry in enumerate(value) for name in _unknown_fields(entry, f"{path}[{i}]")]
    if not isinstance(value, BaseModel):
        return []
    prefix = f"{path}." if path else ""
    names = [prefix + name for name in value.model_extra or {}]
    for name in value.model_fields_set:
        names += _unknown_fields(getattr(value, name), prefix + name)
    return names


def _problem(error: ValidationError, body: Mapping[str, Any]) -> Problem:
    """The first fault, with the path of the field as a client would write it."""
    fault = error.errors(include_url=False, include_context=False)[0]
    path = _path(fault["loc"], body, is_missing=fault["type"] == "missing")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return Problem(400, f"{path or 'request body'}: {fault['msg']}", param=path or None, code=code)


def _path(location: Sequence[int | str], body: Any, *, is_missing: bool) -> str:
    """pydantic's location without the names of union members that it mixes in."""
    path = ""
    last = len(location) - 1
    for i, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            body = body[step] if isinstance(body, list) and step < len(body) else None
        elif isinstance(body, Mapping) and (step in body or (is_missing and i == last)):
            path += f".{step}" if path else step
            body = body.get(step)
    return path
