"""The body of a chat completion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from router.api import request as requests
from router.api.fields import ACCEPTED, UNSUPPORTED
from router.api.formats import FormatFields
from router.api.generation import GenerationRequest, LogprobCount, TokenCount
from router.api.messages import Message
from router.api.paths import Paths
from router.api.request import MAX_ENTRIES, Entries, Parsed, RequestModel, unsupported_field
from router.api.tools import AllowedTools, Tool, ToolChoice, check_tools
from router.problems import Problem


class MediaOptions(RequestModel):
    """Overrides of the checkpoint's resize and sampling rules."""

    min_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    max_pixels: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    num_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    min_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None
    max_frames: Annotated[int, Field(gt=0, lt=2**20)] | None = None


class ChatRequest(GenerationRequest, FormatFields):
    """What is honoured of OpenAI's chat completions, and of what vLLM adds to them."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
    max_completion_tokens: TokenCount | None = None  # goes before max_tokens, as in vLLM
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Annotated[dict[str, Any], Field(default_factory=dict)]
    mm_processor_kwargs: MediaOptions = MediaOptions()
    logprobs: bool = False
    top_logprobs: LogprobCount = 0

    tools: Annotated[Entries[Tool], Field(default_factory=list)]
    tool_choice: ToolChoice | None = None  # auto, if there are tools
    parallel_tool_calls: bool = True

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool = True

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    @property
    def template_options(self) -> dict[str, Any]:
        """Variables for the chat template. What the client says itself goes before what `reasoning_effort` means."""
        effort = self.reasoning_effort
        meant = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        return {**meant, **self.chat_template_kwargs}

    def check(self, *, max_choices: int) -> None:
        asked_for_prompt = "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt
        if self.continue_final_message and asked_for_prompt:
            text = "continue_final_message and add_generation_prompt exclude each other"
            raise Problem(400, text, param="continue_final_message")
        if self.top_logprobs and not self.logprobs:
            raise Problem(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
        if extra := self.mm_processor_kwargs.model_extra:
            name = f"mm_processor_kwargs.{next(iter(extra))}"
            raise unsupported_field(name)
        for i, message in enumerate(self.messages):
            # these change what a message says, so they can't be passed over as other unknown fields are
            for name in ("audio", "function_call", "refusal"):
                if name in (message.model_extra or {}):
                    raise unsupported_field(f"messages[{i}].{name}")
        check_tools(self.tools, self.tool_choice)
        self.content_format()
        super().check(max_choices=max_choices)


def parse_chat_request(body: Any, *, max_choices: int) -> Parsed[ChatRequest]:
    """Raises Problem (400) that names the field."""
    parsed = requests.parse(ChatRequest, body, accepted=ACCEPTED, unsupported=UNSUPPORTED)
    parsed.request.check(max_choices=max_choices)
    return _with_allowed_tools(parsed)


def _with_allowed_tools(parsed: Parsed[ChatRequest]) -> Parsed[ChatRequest]:
    """The model is not told of tools that it may not call."""
    request = parsed.request
    choice = request.tool_choice
    if not isinstance(choice, AllowedTools):
        return parsed
    places = choice.places(request.tools)
    mode = choice.allowed_tools.mode
    allowed = request.model_copy(update={"tools": [request.tools[i] for i in places], "tool_choice": mode})
    check_tools(allowed.tools, mode)
    paths = Paths({f"tools[{place}]": f"tools[{i}]" for place, i in enumerate(places)})
    return Parsed(request=allowed, ignored=parsed.ignored, paths=paths)
