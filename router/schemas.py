"""The body of a chat completion, checked to the last field.

Every field is of one of four kinds: honoured (declared in `ChatRequest`), accepted because doing nothing is what it
means, known but not to be honoured here (a 400 that names it, unless its value asks for nothing), and unknown (told to
the client in the header X-Ignored-Fields). `null` always means "not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from router.problems import Problem

_MAX_STOPS = 32

# Doing nothing is what these mean here.
ACCEPTED = frozenset(
    {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "request_id"}
)
# Known from OpenAI's and vLLM's references, and not honoured: only these values, which ask for nothing, are taken.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logits_processors": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_tokens_as_token_ids": (False,),
    "service_tier": ("auto", "default"),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "structured_outputs": (),
    "thinking": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "vllm_xargs": ({},),
    "web_search_options": (),
}


class _Model(BaseModel):
    # Unknown fields are kept: `unknown_fields` lists them.
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


# -- messages ----------------------------------------------------------------------------------------------------------


class TextPart(_Model):
    type: Literal["text", "input_text", "output_text"]
    text: str


class ImageUrl(_Model):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class VideoUrl(_Model):
    url: str


def _text_or_object(value: Any) -> str:
    return "text" if isinstance(value, str) else "object"


def _text_or_list(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


class ImagePart(_Model):
    """`input_image` is what OpenAI's Responses API calls it."""

    type: Literal["image_url", "input_image"]
    image_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[ImageUrl, Tag("object")], Discriminator(_text_or_object)
    ]
    detail: Literal["auto", "low", "high"] = "auto"
    uuid: str | None = None  # a hint for caches; the content itself tells us as much


class VideoUrlPart(_Model):
    type: Literal["video_url"]
    video_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[VideoUrl, Tag("object")], Discriminator(_text_or_object)
    ]
    uuid: str | None = None


class FramesPart(_Model):
    """A video as a list of frames (Qwen's own form), taken at `fps` frames a second."""

    type: Literal["video"]
    video: Annotated[list[str], Field(min_length=1)]
    fps: Annotated[float, Field(gt=0)] | None = None


ContentPart = Annotated[TextPart | ImagePart | VideoUrlPart | FramesPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ContentPart], Tag("list")], Discriminator(_text_or_list)
]
TextContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Tag("list")], Discriminator(_text_or_list)
]


class SystemMessage(_Model):
    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = None


class UserMessage(_Model):
    role: Literal["user"]
    content: Content
    name: str | None = None


class FunctionCall(_Model):
    name: str
    arguments: str = "{}"


class ToolCall(_Model):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(_Model):
    role: Literal["assistant"]
    content: TextContent | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = []


class ToolMessage(_Model):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


# -- the request -------------------------------------------------------------------------------------------------------


class StreamOptions(_Model):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class MediaOptions(_Model):
    """Overrides of the checkpoint's resize and sampling rules."""

    min_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    max_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    num_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    min_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    max_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]


class ChatRequest(_Model):
    """What is honoured of OpenAI's chat completions, and of what vLLM adds to them."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
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
    stop: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[str], Field(max_length=_MAX_STOPS), Tag("list")],
        Discriminator(_text_or_list),
    ] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] = []
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_timings: bool = False
    return_token_ids: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    mm_processor_kwargs: MediaOptions = MediaOptions()

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


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
