"""Tools of a request, and which of them the model may call or has to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from router.api.request import Entries, RequestModel, type_of
from router.problems import Problem

# As OpenAI has them, and dots and more length, which others allow. The name stands in the prompt and in the grammar.
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]


class FunctionDefinition(RequestModel):
    """`parameters` is a JSON schema; with `strict` the model can't but follow it."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Tool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionDefinition

    def shown(self) -> dict[str, Any]:
        """As the chat template sees it: what the model is told, and nothing that it is not."""
        function = self.function
        told = {"name": function.name, "description": function.description, "parameters": function.parameters}
        return {"type": "function", "function": {key: value for key, value in told.items() if value is not None}}


class FunctionReference(RequestModel):
    name: str


class NamedTool(RequestModel):
    """`tool_choice` for one function, which is then called once."""

    type: Literal["function"]
    function: FunctionReference


class AllowedTool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionReference


class AllowedToolList(RequestModel):
    mode: Literal["auto", "required"]
    tools: Entries[AllowedTool]


class AllowedTools(RequestModel):
    """`tool_choice` for some of the functions."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolList

    def places(self, tools: Sequence[Tool]) -> list[int]:
        """Of those among `tools`. Raises Problem (400): one of them is not there."""
        known = {tool.function.name: i for i, tool in enumerate(tools)}
        for i, allowed in enumerate(self.allowed_tools.tools):
            if allowed.function.name not in known:
                path = f"tool_choice.allowed_tools.tools[{i}]"
                raise Problem(400, f"{path}: it is not one of the functions in tools", param=path)
        return sorted({known[allowed.function.name] for allowed in self.allowed_tools.tools})


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "#word"
    return "#allowed" if type_of(value) == "allowed_tools" else "#named"


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("#word")]
    | Annotated[NamedTool, Tag("#named")]
    | Annotated[AllowedTools, Tag("#allowed")],
    Discriminator(_kind),
]


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Raises Problem (400): two tools of one name, or a choice that the tools do not have."""
    names: set[str] = set()
    for i, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            raise Problem(400, f"there are two tools named {name!r}", param=f"tools[{i}].function.name")
        names.add(name)
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise Problem(400, f"tools has no function {choice.function.name!r}", param="tool_choice")
    if choice == "required" and not names:
        raise Problem(400, "tool_choice asks for a call, but there are no tools", param="tool_choice")
