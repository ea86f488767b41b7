"""Tool calls as a grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from router.api.tools import NamedTool, Tool
from router.constraints.content import embed, json_grammar
from router.constraints.lark import Lark, Tag
from router.problems import Problem
from router.syntax import CALL, CALL_END


def required_calls(lark: Lark, tools: Sequence[Tool], choice: NamedTool | str, *, parallel: bool) -> str:
    """Calls and nothing else: one of a tool that is named, else as many as the model likes, of any of them."""
    tags = [
        call_tag(lark, tool, f"tools[{i}]")
        for i, tool in enumerate(tools)
        if not isinstance(choice, NamedTool) or tool.function.name == choice.function.name
    ]
    call = lark.rule(" | ".join(map(lark.tag, tags)))
    return call if isinstance(choice, NamedTool) or not parallel else f"{call} (/\\n?/ {call})*"


def possible_calls(lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> str:
    """Text, with calls in it if the model likes."""
    tags = [call_tag(lark, tool, f"tools[{i}]", free=not tool.function.strict) for i, tool in enumerate(tools)]
    return lark.triggered([CALL], tags, at_most_one=not parallel)


def call_tag(lark: Lark, tool: Tool, param: str, *, free: bool = False) -> Tag:
    """One call; `free`: the arguments are an object of any kind.

    Raises:
        Problem: 400; the parameters of a strict tool can't be enforced.
    """
    name = json.dumps(tool.function.name)
    content = _arguments(lark, tool, {} if free else tool.function.parameters or {}, f"{param}.function.parameters")
    return Tag(begin=f'{CALL}\n{{"name": {name}, "arguments": ', content=content, end=f"}}\n{CALL_END}")


def _arguments(lark: Lark, tool: Tool, parameters: dict[str, Any], param: str) -> str:
    schema = {"type": "object", **parameters}
    if tool.function.strict:
        return embed(lark, json_grammar(schema), param)
    try:
        return embed(lark, json_grammar(schema, lenient=True), param)
    except Problem:  # not strict: as good as it gets
        return embed(lark, json_grammar({"type": "object"}), param)
