"""Reasoning is told apart from the answer. Templates that think are in router/test_reasoning.py."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.integration.contract.asking import ask, stream, streamed_text, text_of
from tests.integration.contract.script import SOLUTION, THOUGHT

NAMES = ("reasoning_content", "reasoning")


def test_it_has_two_names(client: OpenAI) -> None:
    answer = ask(client, "Riddle me this.")
    assert text_of(answer) == SOLUTION
    assert [getattr(answer.choices[0].message, name) for name in NAMES] == [THOUGHT, THOUGHT]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    count = answer.usage.completion_tokens_details.reasoning_tokens
    assert count is not None
    assert 0 < count < answer.usage.completion_tokens


@pytest.mark.parametrize("name", NAMES)
def test_it_is_streamed_apart(client: OpenAI, name: str) -> None:
    chunks = stream(client, "Riddle me this.")
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(getattr(delta, name, None) or "" for delta in deltas) == THOUGHT
    assert streamed_text(chunks) == SOLUTION
    kinds = [name in delta.to_dict() for delta in deltas if delta.content or name in delta.to_dict()]
    assert kinds == sorted(kinds, reverse=True), "first the reasoning, then the answer"


def test_it_can_be_hidden(client: OpenAI) -> None:
    answer = ask(client, "Riddle me this.", extra_body={"include_reasoning": False})
    assert text_of(answer) == SOLUTION
    assert "reasoning" not in answer.choices[0].message.to_dict()
    assert answer.usage == ask(client, "Riddle me this.").usage, "it counts all the same"
    chunks = stream(client, "Riddle me this.", extra_body={"include_reasoning": False})
    assert streamed_text(chunks) == SOLUTION
    assert not any("reasoning" in choice.delta.to_dict() for chunk in chunks for choice in chunk.choices)


def test_it_is_cut_off(client: OpenAI) -> None:
    (choice,) = ask(client, "Riddle me this.", max_tokens=4).choices
    assert (choice.message.content, choice.finish_reason) == (None, "length")
    assert THOUGHT.startswith(choice.message.reasoning)  # type: ignore[attr-defined]
