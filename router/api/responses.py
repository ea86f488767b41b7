"""The body of /v1/responses, and the chat completion that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from router.api import request as requests
from router.api.chat import ChatRequest
from router.api.fields import ACCEPTED, UNSUPPORTED
from router.api.generation import GenerationRequest, LogprobCount, TokenCount
from router.api.items import Input, Transcript
from router.api.request import Entries, Parsed, RequestModel
from router.api.translation import parse_translated, shared_fields
from router.problems import Problem

_STORED = "responses are not stored here: send the whole conversation as input"
_REFUSED = {
    "background": "a response is made while its request waits, not in the background",
    "conversation": _STORED,
    "previous_response_id": _STORED,
    "prompt": "there are no stored prompts here: send instructions and input",
}
_LOGPROBS = "message.output_text.logprobs"


class TextOptions(RequestModel):
    """`format` is checked as the response_format of a chat completion."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] = "medium"


class ReasoningOptions(RequestModel):
    """`summary`: reasoning is shown where summaries stand, unabridged, because many clients look nowhere else."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None  # as it was called once


# Those of other tools than functions ask for nothing: no such tool is ever used.
Included = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesBody(GenerationRequest):
    """What is honoured of OpenAI's responses; the sampling options of the other APIs are taken, too."""

    input: Input
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None  # of the server's own tools, which it has none of
    tools: Annotated[Entries[dict[str, Any]], Field(default_factory=list)]
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    include: Annotated[list[Included], Field(default_factory=list)]
    top_logprobs: LogprobCount | None = None
    truncation: Literal["disabled"] = "disabled"
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    # These are shown again in the answer, and mean nothing else.
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResponsesRequest:
    """Args:
    chat: what to do.
    echo: fields of the request that the answer shows again.
    summary: reasoning is wanted as its summary.
    """

    chat: ChatRequest
    echo: Mapping[str, Any]
    summary: bool

    @property
    def model(self) -> str | None:
        return self.chat.model

    @property
    def stream(self) -> bool:
        return self.chat.stream


def parse_responses_request(body: Any) -> Parsed[ResponsesRequest]:
    """Raises Problem (400) that names the field."""
    if isinstance(body, dict):
        for name, reason in _REFUSED.items():
            if body.get(name) not in (None, False):
                raise Problem(400, f"{name}: {reason}", param=name, code="unsupported_parameter")
        body = {name: value for name, value in body.items() if name not in _REFUSED}
    parsed = requests.parse(ResponsesBody, body, accepted=ACCEPTED, unsupported=UNSUPPORTED)
    given = parsed.request
    transcript = Transcript()
    if given.instructions is not None:
        transcript.add_instructions(given.instructions)
    transcript.add_input(given.input)
    chat = {
        **shared_fields(body),
        "messages": transcript.messages,
        "max_completion_tokens": given.max_output_tokens,
        "tools": [_chat_tool(tool, f"tools[{i}]") for i, tool in enumerate(given.tools)],
        "tool_choice": _chat_tool_choice(given.tool_choice),
        "parallel_tool_calls": given.parallel_tool_calls,
        "response_format": _response_format(given.text.format),
        "reasoning_effort": given.reasoning.effort,
        "logprobs": given.top_logprobs is not None or _LOGPROBS in given.include,
        "top_logprobs": given.top_logprobs,
        "chat_template_kwargs": given.chat_template_kwargs,
        "mm_processor_kwargs": given.mm_processor_kwargs,
    }
    origins = {
        **transcript.origins,
        **{f"tools[{i}].function": f"tools[{i}]" for i in range(len(given.tools))},
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
        "reasoning_effort": "reasoning.effort",
        "tool_choice.function": "tool_choice",
        **_allowed_origins(given.tool_choice),
    }
    translated = parse_translated(chat, origins)
    summary = given.reasoning.summary or given.reasoning.generate_summary
    request = ResponsesRequest(chat=translated.request, echo=_echo(given, summary), summary=summary is not None)
    return Parsed(request=request, ignored=parsed.ignored + translated.ignored, paths=translated.paths)


def _echo(given: ResponsesBody, summary: str | None) -> dict[str, Any]:
    return {
        "background": False,
        "instructions": given.instructions,
        "max_output_tokens": given.max_output_tokens,
        "max_tool_calls": given.max_tool_calls,
        "metadata": given.metadata,
        "parallel_tool_calls": given.parallel_tool_calls,
        "previous_response_id": None,
        "prompt_cache_key": given.prompt_cache_key,
        "reasoning": {"effort": given.reasoning.effort, "summary": summary},
        "safety_identifier": given.safety_identifier,
        "service_tier": "default",
        "store": False,
        "text": {"format": given.text.format or {"type": "text"}, "verbosity": given.text.verbosity},
        "tool_choice": given.tool_choice,
        "tools": given.tools,
        "top_logprobs": given.top_logprobs or 0,
        "truncation": given.truncation,
        "user": given.user,
    }


def _chat_tool(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        path += ".type"
        raise Problem(400, f"{path}: only functions can be tools here, not {kind!r}", param=path)
    return {"type": kind, "function": {name: value for name, value in tool.items() if name != "type"}}


def _chat_tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    match choice:
        case str():
            return choice
        case {"type": "function"}:
            return {"type": "function", "function": {"name": choice.get("name")}}
        case {"type": "allowed_tools"}:
            allowed = {"mode": choice.get("mode"), "tools": choice.get("tools")}
            if isinstance(tools := allowed["tools"], list):
                allowed["tools"] = [_allowed_tool(tool) for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": allowed}
    raise Problem(
        400, "tool_choice: it has to be auto, none, required, a function or allowed_tools", param="tool_choice"
    )


def _allowed_tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    return {"type": tool.get("type"), "function": {name: value for name, value in tool.items() if name != "type"}}


def _allowed_origins(choice: str | dict[str, Any]) -> dict[str, str]:
    tools = choice.get("tools") if isinstance(choice, dict) else None
    count = len(tools) if isinstance(tools, list) else 0
    places = {f"tool_choice.allowed_tools.tools[{i}].function": f"tool_choice.tools[{i}]" for i in range(count)}
    return {"tool_choice.allowed_tools": "tool_choice", **places}


def _response_format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None or given.get("type") != "json_schema":
        return given
    schema = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}
