"""The bodies of /v1/messages and /v1/messages/count_tokens, and the chat completions that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from router.api import request as requests
from router.api.blocks import AssistantTurn, SystemText, TextBlock, Transcript, Turn
from router.api.chat import ChatRequest
from router.api.fields import ACCEPTED, UNSUPPORTED
from router.api.generation import GenerationRequest, TokenCount
from router.api.request import MAX_ENTRIES, Entries, Parsed, RequestModel
from router.api.translation import parse_translated, shared_fields
from router.problems import Problem

_ACCEPTED = ACCEPTED | {"cache_control", "inference_geo", "betas"}
_UNSUPPORTED = {
    **UNSUPPORTED,
    "container": (),
    "mcp_servers": ([],),
    "output_format": (),  # a beta's name for output_config.format
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
}


class FunctionTool(RequestModel):
    """`type` is not given for a tool of the client; the others are Anthropic's own."""

    type: str = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool = False
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None  # input is streamed as it is written, always
    input_examples: list[Any] | None = None


class PlainChoice(RequestModel):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool = False


class NamedChoice(RequestModel):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool = False


class Thinking(RequestModel):
    """`budget_tokens` is a hint by Anthropic's own words; here nothing comes of it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: TokenCount | None = None
    display: Literal["summarized", "omitted"] = "summarized"


class SchemaFormat(RequestModel):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(RequestModel):
    effort: str | None = None
    format: SchemaFormat | None = None


class PromptBody(GenerationRequest):
    """What is honoured of Anthropic's messages and counts where nothing is generated."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
    system: SystemText | None = None
    tools: Annotated[Entries[FunctionTool], Field(default_factory=list)]
    tool_choice: Annotated[PlainChoice | NamedChoice, Field(discriminator="type")] = PlainChoice(type="auto")
    thinking: Thinking | None = None  # without a word on it, the chat template decides
    output_config: OutputConfig = OutputConfig()
    stop_sequences: Annotated[list[str], Field(default_factory=list)]
    chat_template_kwargs: Annotated[dict[str, Any], Field(default_factory=dict)]
    mm_processor_kwargs: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    """The same with an answer; the sampling options of the other APIs are taken, too."""

    max_tokens: TokenCount


@dataclass(frozen=True, kw_only=True)
class MessagesRequest:
    """Args:
    chat: what to do; it does not limit the answer.
    max_tokens: what does. A client has to say it and often says a large number: in Anthropic's API, too, what is more
        than there is room for is no error.
    """

    chat: ChatRequest
    max_tokens: int

    @property
    def model(self) -> str | None:
        return self.chat.model

    @property
    def stream(self) -> bool:
        return self.chat.stream


@dataclass(frozen=True, kw_only=True)
class CountRequest:
    """Args:
    chat: whose prompt is of interest.
    """

    chat: ChatRequest
    stream: bool = False

    @property
    def model(self) -> str | None:
        return self.chat.model


def parse_messages_request(body: Any) -> Parsed[MessagesRequest]:
    """Raises Problem (400) that names the field."""
    parsed = requests.parse(MessagesBody, body, accepted=_ACCEPTED, unsupported=_UNSUPPORTED)
    chat = _translate(body, parsed.request)
    request = MessagesRequest(
        chat=chat.request.model_copy(update={"max_tokens": None}), max_tokens=parsed.request.max_tokens
    )
    return Parsed(request=request, ignored=parsed.ignored + chat.ignored, paths=chat.paths)


def parse_count_request(body: Any) -> Parsed[CountRequest]:
    """Raises Problem (400) that names the field."""
    parsed = requests.parse(PromptBody, body, accepted=_ACCEPTED, unsupported=_UNSUPPORTED)
    chat = _translate({"model": parsed.request.model}, parsed.request)
    return Parsed(request=CountRequest(chat=chat.request), ignored=parsed.ignored + chat.ignored, paths=chat.paths)


def _translate(body: Mapping[str, Any], given: PromptBody) -> Parsed[ChatRequest]:
    transcript = Transcript()
    if given.system is not None:
        transcript.add_system(given.system, "system")
    turns = _said(given.messages)
    for i, turn in enumerate(turns):
        transcript.add(turn, f"messages[{i}]")
    _check_tools(given.tools)
    thinking, effort = given.thinking, given.output_config.effort
    template_options = dict(given.chat_template_kwargs)
    if thinking is not None:
        template_options["enable_thinking"] = thinking.type != "disabled"
    no_thinking = thinking is not None and thinking.type == "disabled"
    chat = {
        **shared_fields(body),
        "messages": transcript.messages,
        "stop": [*given.stop_sequences, *given.stop_strings],
        "tools": [_chat_tool(tool) for tool in given.tools],
        "tool_choice": _chat_tool_choice(given.tool_choice),
        "parallel_tool_calls": not given.tool_choice.disable_parallel_tool_use,
        "response_format": _response_format(given.output_config.format),
        "reasoning_effort": "none" if no_thinking else effort,
        "include_reasoning": thinking is None or thinking.display != "omitted",
        "continue_final_message": _is_begun(turns),
        "chat_template_kwargs": template_options,
        "mm_processor_kwargs": given.mm_processor_kwargs,
    }
    origins = {**transcript.origins, **_ORIGINS, **_tool_origins(len(given.tools))}
    return parse_translated(chat, {**origins, "reasoning_effort": "thinking"} if no_thinking else origins)


_ORIGINS = {
    "stop": "stop_sequences",
    "tool_choice.function": "tool_choice",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "reasoning_effort": "output_config.effort",
}


def _tool_origins(count: int) -> dict[str, str]:
    places = [f"tools[{i}]" for i in range(count)]
    return {f"{place}.function": place for place in places} | {
        f"{place}.function.parameters": f"{place}.input_schema" for place in places
    }


def _check_tools(tools: Sequence[FunctionTool]) -> None:
    """Raises Problem (400) for a tool that is not a function of the client."""
    for i, tool in enumerate(tools):
        if tool.type != "custom":
            param = f"tools[{i}].type"
            message = f"{param}: this server has no tools of its own, such as {tool.type!r}"
            raise Problem(400, message, param=param, code="unsupported_parameter")
        if tool.input_schema is None:
            param = f"tools[{i}].input_schema"
            raise Problem(400, f"{param}: Field required", param=param, code="missing_required_parameter")


def _chat_tool(tool: FunctionTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _chat_tool_choice(choice: PlainChoice | NamedChoice) -> str | dict[str, Any]:
    if isinstance(choice, NamedChoice):
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type


def _response_format(given: SchemaFormat | None) -> dict[str, Any] | None:
    if given is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": given.schema_, "strict": True}}


def _said(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Without a last turn of the assistant that is empty, as Anthropic allows it: nothing is begun."""
    last = turns[-1]
    return turns[:-1] if len(turns) > 1 and isinstance(last, AssistantTurn) and not last.content else turns


def _is_begun(turns: Sequence[Turn]) -> bool:
    """Whether the last turn is the beginning of the answer. Raises Problem (400) if nothing can follow it."""
    last = turns[-1]
    if not isinstance(last, AssistantTurn):
        return False
    if not isinstance(last.content, str) and not isinstance(last.content[-1], TextBlock):
        place = f"messages[{len(turns) - 1}]"
        raise Problem(400, f"{place}: the answer can only go on after text of the assistant", param=place)
    return True
