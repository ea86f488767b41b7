"""The input of a response, item by item, and the messages that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from router.api.request import Entries, RequestModel, text_or_list, type_of, unsupported_field

# Parts of content are checked as those of a chat completion, which has all kinds of them.
Part = dict[str, Any]
Content = Annotated[Annotated[str, Tag("#text")] | Annotated[Entries[Part], Tag("#list")], Discriminator(text_or_list)]
# What our answers and OpenAI's client say of a part, and hints for a cache: they change nothing when they come back.
_IDLE = frozenset({"annotations", "logprobs", "parsed", "prompt_cache_breakpoint"})


class MessageItem(RequestModel):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(RequestModel):
    """OpenAI's client adds `parsed_arguments`."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"
    parsed_arguments: Any = None
    id: str | None = None
    status: str | None = None


class FunctionCallOutputItem(RequestModel):
    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: str | None = None


class ReasoningText(RequestModel):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(RequestModel):
    """`encrypted_content` is another server's: this one shows reasoning as it is."""

    type: Literal["reasoning"]
    summary: Annotated[Entries[ReasoningText], Field(default_factory=list)]
    content: Annotated[Entries[ReasoningText], Field(default_factory=list)]
    encrypted_content: str | None = None
    id: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content or self.summary)


def _kind(item: Any) -> str:
    return f"#{type_of(item) or 'message'}"


Item = Annotated[
    Annotated[MessageItem, Tag("#message")]
    | Annotated[FunctionCallItem, Tag("#function_call")]
    | Annotated[FunctionCallOutputItem, Tag("#function_call_output")]
    | Annotated[ReasoningItem, Tag("#reasoning")],
    Discriminator(
        _kind,
        custom_error_type="item_type",
        custom_error_message="an item can be a message, a function_call, a function_call_output or a reasoning; "
        "there are no others here, and none that could be referred to, because nothing is stored",
    ),
]
Input = Annotated[Annotated[str, Tag("#text")] | Annotated[Entries[Item], Tag("#list")], Discriminator(text_or_list)]


class Transcript:
    """Messages of a chat completion, as they are put together of items.

    The model wrote reasoning, text and calls of one turn in one go, and the chat template shows them so: items of the
    assistant that follow each other become one message.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: dict[str, str] = {"messages": "input"}
        self._turn: dict[str, Any] | None = None  # the assistant's, while it may go on

    def add_instructions(self, text: str) -> None:
        self._add({"role": "system", "content": text}, {"content": "instructions"})

    def add_input(self, given: str | Sequence[Item]) -> None:
        """Raises Problem (400) for what has no meaning here."""
        if isinstance(given, str):
            self._add({"role": "user", "content": given}, {"content": "input"})
            return
        for i, item in enumerate(given):
            self._add_item(item, f"input[{i}]")

    def _add_item(self, item: Item, path: str) -> None:
        match item:
            case ReasoningItem():
                if item.text:
                    turn = self._turn_before_text(path)
                    turn["reasoning_content"] = "\n".join(filter(None, (turn.get("reasoning_content"), item.text)))
            case MessageItem(role="assistant"):
                self._turn_before_text(path)["content"] = _content(item.content, f"{path}.content")
                self.origins[f"{self._place}.content"] = f"{path}.content"
            case FunctionCallItem():
                turn = self._turn or self._begin_turn(path)
                calls = turn.setdefault("tool_calls", [])
                self.origins[f"{self._place}.tool_calls[{len(calls)}].function"] = path
                function = {"name": item.name, "arguments": item.arguments}
                calls.append({"id": item.call_id, "type": "function", "function": function})
            case MessageItem():
                content = _content(item.content, f"{path}.content")
                self._add({"role": item.role, "content": content}, {"": path})
            case FunctionCallOutputItem():
                content = _content(item.output, f"{path}.output")
                message = {"role": "tool", "tool_call_id": item.call_id, "content": content}
                self._add(message, {"": path, "content": f"{path}.output"})

    @property
    def _place(self) -> str:
        """Of the last message."""
        return f"messages[{len(self.messages) - 1}]"

    def _add(self, message: dict[str, Any], origins: Mapping[str, str]) -> None:
        self.messages.append(message)
        self._turn = None
        for field, origin in origins.items():
            self.origins[f"{self._place}.{field}" if field else self._place] = origin

    def _begin_turn(self, path: str) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": "assistant"}
        self._add(turn, {"": path})
        self._turn = turn
        return turn

    def _turn_before_text(self, path: str) -> dict[str, Any]:
        turn = self._turn
        if turn is None or "content" in turn or "tool_calls" in turn:
            return self._begin_turn(path)
        return turn


def _content(content: str | list[Part], path: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    return [_part(part, f"{path}[{i}]") for i, part in enumerate(content)]


def _part(part: Part, path: str) -> Part:
    if part.get("file_id") is not None:
        raise unsupported_field(f"{path}.file_id")
    if part.get("type") == "refusal":  # the assistant's words like any others
        return {"type": "text", "text": part.get("refusal")}
    return {name: value for name, value in part.items() if name not in _IDLE and name != "file_id"}
