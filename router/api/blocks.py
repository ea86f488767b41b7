"""Messages made of content blocks, as Anthropic's API has them, and the chat messages that they stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from router.api.request import Entries, RequestModel, text_or_list, type_of
from router.problems import Problem


class Block(RequestModel):
    cache_control: dict[str, Any] | None = None  # prefixes are cached anyway


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class Base64Source(RequestModel):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(RequestModel):
    type: Literal["url"]
    url: str


class ImageBlock(Block):
    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]

    @property
    def url(self) -> str:
        source = self.source
        return source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"


class ThinkingBlock(Block):
    """What the signature proves does not matter here: a forged thought is no more than another prompt."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block):
    """Another server's, which nobody else can read."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


def _tagged(block: Any) -> str:
    return f"#{type_of(block)}"


ShownBlock = Annotated[
    Annotated[TextBlock, Tag("#text")] | Annotated[ImageBlock, Tag("#image")],
    Discriminator(
        _tagged,
        custom_error_type="block_type",
        custom_error_message="the type of a block has to be text or image here",
    ),
]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: (
        Annotated[
            Annotated[str, Tag("#text")] | Annotated[Entries[ShownBlock], Tag("#list")], Discriminator(text_or_list)
        ]
        | None
    ) = None
    is_error: bool = False


UserBlock = Annotated[
    Annotated[TextBlock, Tag("#text")]
    | Annotated[ImageBlock, Tag("#image")]
    | Annotated[ToolResultBlock, Tag("#tool_result")],
    Discriminator(
        _tagged,
        custom_error_type="block_type",
        custom_error_message="the type of a block of the user has to be text, image or tool_result",
    ),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("#text")]
    | Annotated[ThinkingBlock, Tag("#thinking")]
    | Annotated[RedactedThinkingBlock, Tag("#redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("#tool_use")],
    Discriminator(
        _tagged,
        custom_error_type="block_type",
        custom_error_message="the type of a block of the assistant has to be text, thinking, redacted_thinking or "
        "tool_use",
    ),
]
SystemText = Annotated[
    Annotated[str, Tag("#text")] | Annotated[Entries[TextBlock], Tag("#list")], Discriminator(text_or_list)
]


class UserTurn(RequestModel):
    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("#text")] | Annotated[Entries[UserBlock], Tag("#list")], Discriminator(text_or_list)
    ]


class AssistantTurn(RequestModel):
    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("#text")] | Annotated[Entries[AssistantBlock], Tag("#list")], Discriminator(text_or_list)
    ]


class SystemTurn(RequestModel):
    role: Literal["system"]
    content: SystemText


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]


class Transcript:
    """Messages of a chat completion, as they are put together of turns. One turn of the user becomes several messages:
    one for each result of a tool, and what else it says."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: dict[str, str] = {}

    def add_system(self, text: str | Sequence[TextBlock], path: str) -> None:
        message = self._begin("system", path)
        if isinstance(text, str):
            message["content"] = text
            return
        for i, block in enumerate(text):
            self._add_part(block, f"{path}[{i}]")

    def add(self, turn: Turn, path: str) -> None:
        """Args:
        turn: the next one.
        path: of the turn in the request.

        Raises:
            Problem: 400, it says nothing.
        """
        if not turn.content:
            param = f"{path}.content"
            raise Problem(400, f"{param}: the content of a turn can't be empty", param=param)
        match turn:
            case SystemTurn():
                self.add_system(turn.content, f"{path}.content")
            case UserTurn(content=str() as text) | AssistantTurn(content=str() as text):
                self._begin(turn.role, path)["content"] = text
            case UserTurn(content=list() as blocks):
                self._add_user(blocks, path)
            case AssistantTurn(content=list() as blocks):
                self._add_assistant(blocks, path)

    def _add_user(self, blocks: Sequence[UserBlock], path: str) -> None:
        speaks = False  # the last message is the user's own
        for i, block in enumerate(blocks):
            place = f"{path}.content[{i}]"
            if isinstance(block, ToolResultBlock):
                self._add_result(block, place)
                speaks = False
                continue
            if not speaks:
                self._begin("user", path)
                speaks = True
            self._add_part(block, place)

    def _add_result(self, block: ToolResultBlock, path: str) -> None:
        message = self._begin("tool", path)
        message["tool_call_id"] = block.tool_use_id
        if block.is_error:  # chat messages have no field for it, so the model reads it
            message["content"].append({"type": "text", "text": "Error: "})
        if isinstance(block.content, str):
            message["content"].append({"type": "text", "text": block.content})
            return
        for i, shown in enumerate(block.content or ()):
            self._add_part(shown, f"{path}.content[{i}]")

    def _add_assistant(self, blocks: Sequence[AssistantBlock], path: str) -> None:
        message = self._begin("assistant", path)
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for i, block in enumerate(blocks):
            place = f"{path}.content[{i}]"
            match block:
                case TextBlock():
                    self._add_part(block, place)
                case ThinkingBlock():
                    thoughts.append(block.thinking)
                case ToolUseBlock():
                    self.origins[f"{self._place}.tool_calls[{len(calls)}].function"] = place
                    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
                    calls.append({"id": block.id, "type": "function", "function": function})
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls

    @property
    def _place(self) -> str:
        """Of the last message."""
        return f"messages[{len(self.messages) - 1}]"

    def _begin(self, role: str, path: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": role, "content": []}
        self.messages.append(message)
        self.origins[self._place] = path
        return message

    def _add_part(self, block: TextBlock | ImageBlock, path: str) -> None:
        content = self.messages[-1]["content"]
        self.origins[f"{self._place}.content[{len(content)}]"] = path
        if isinstance(block, TextBlock):
            content.append({"type": "text", "text": block.text})
        else:
            content.append({"type": "image_url", "image_url": {"url": block.url}})
