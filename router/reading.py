"""What the answer to a chat is read with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from router.answer.output import OutputRules
from router.answer.reader import ModelReader, PlainReader, Reader
from router.answer.reasoning import ReasoningReader
from router.answer.tool_calls import ToolCallReader
from router.api.chat import ChatRequest
from router.prompt.thinking import Thinking
from router.syntax import CALL, CALL_END, THINK, THINK_END


def chat_reader(request: ChatRequest, marks: Mapping[str, int], thinking: Thinking) -> Callable[[], Reader]:
    """Makes the reader of a choice.

    Args:
        request: whose tools may be called.
        marks: ids of added tokens, by string; with those of reasoning, unless there is no thinking.
        thinking: whether the answer begins with reasoning.
    """
    with_calls = bool(request.tools) and request.tool_choice != "none"
    if thinking is Thinking.NONE and not with_calls:
        return PlainReader
    # `make` lives as long as the answer; the request, which may hold images, must not.
    most_calls, show_reasoning = None if request.parallel_tool_calls else 1, request.include_reasoning

    def make() -> Reader:
        reasoning = None
        if thinking is not Thinking.NONE:
            reasoning = ReasoningReader(begun=thinking is Thinking.BEGUN, marks=(marks[THINK], marks[THINK_END]))
        calls = ToolCallReader(most=most_calls) if with_calls else None
        return ModelReader(reasoning=reasoning, calls=calls, show_reasoning=show_reasoning)

    return make


def readable(rules: OutputRules, marks: Mapping[str, int]) -> OutputRules:
    """The same, but what a reader looks for is shown to it, even where the vocabulary has it as special tokens."""
    looked_for = {marks[mark] for mark in (THINK, THINK_END, CALL, CALL_END) if mark in marks}
    return replace(rules, hidden=rules.hidden - looked_for)
