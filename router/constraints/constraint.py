"""The grammar of a request: of its tools, its format, and the reasoning before them."""

from __future__ import annotations

from collections.abc import Mapping

from common.grammars import MAX_GRAMMAR_BYTES
from common.pb import language_pb2
from router.api.chat import ChatRequest
from router.api.formats import ContentFormat
from router.api.tools import NamedTool
from router.constraints.content import content_rule
from router.constraints.lark import TEXT, Lark
from router.constraints.tools import possible_calls, required_calls
from router.problems import Problem
from router.prompt.thinking import Thinking
from router.syntax import THINK, THINK_END

_BREAK = r"/\n{0,2}/"  # what models write between reasoning and answer


def content_grammar(wanted: ContentFormat, marks: Mapping[str, int]) -> language_pb2.Grammar:
    """Of an answer that is nothing but text. Raises Problem (400)."""
    lark = Lark(marks)
    return _grammar(lark, content_rule(lark, wanted), wanted.param)


def is_constrained(request: ChatRequest) -> bool:
    """Whether `chat_grammar` has anything to do. Raises Problem (400): the request contradicts itself."""
    return request.content_format() is not None or _forces_calls(request) or _binds_calls(request)


def chat_grammar(request: ChatRequest, marks: Mapping[str, int], thinking: Thinking) -> language_pb2.Grammar:
    """Of the answer to a request that `is_constrained`. Takes up to a second for a very big schema.

    Args:
        request: see there.
        marks: see `Lark`.
        thinking: whether the answer begins with reasoning, which is free.

    Raises:
        Problem: 400; something in it can't be enforced.
    """
    lark = Lark(marks)
    start = _answer(request, lark)
    wanted = request.content_format()
    param = wanted.param if wanted is not None else "tools"
    match thinking:
        case Thinking.BEGUN:
            return _grammar(lark, f"{_BREAK} {start}", param, after_token_id=marks[THINK_END])
        case Thinking.POSSIBLE:
            reasoning = lark.rule(f"{lark.mark(THINK)} {TEXT} {lark.mark(THINK_END)} {_BREAK}")
            return _grammar(lark, f"{reasoning}? {start}", param)
        case Thinking.NONE:
            return _grammar(lark, start, param)


def _grammar(lark: Lark, start: str, param: str, *, after_token_id: int | None = None) -> language_pb2.Grammar:
    source = lark.source(start)
    if len(source) > MAX_GRAMMAR_BYTES:  # its schemas and grammars have been counted, its texts and names have not
        message = f"{param}: it makes a grammar of {len(source)} bytes; at most {MAX_GRAMMAR_BYTES} are possible"
        raise Problem(400, message, param=param, code="invalid_value")
    return language_pb2.Grammar(source=source, after_token_id=after_token_id)


def _answer(request: ChatRequest, lark: Lark) -> str:
    """An expression for what follows the reasoning."""
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if _forces_calls(request):
        assert isinstance(choice, str | NamedTool)
        return lark.rule(required_calls(lark, request.tools, choice, parallel=parallel))
    wanted = request.content_format()
    if wanted is None:
        return lark.rule(possible_calls(lark, request.tools, parallel=parallel))
    content = lark.rule(content_rule(lark, wanted))
    if not request.tools or choice == "none":
        return content
    return f"({content} | {lark.rule(required_calls(lark, request.tools, 'auto', parallel=parallel))})"


def _forces_calls(request: ChatRequest) -> bool:
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)


def _binds_calls(request: ChatRequest) -> bool:
    return request.tool_choice != "none" and any(tool.function.strict for tool in request.tools)
