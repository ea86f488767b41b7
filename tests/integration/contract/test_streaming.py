"""Streams of chat completions. What stands between a client and a silent stream is shown in router/test_text.py."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.integration.contract.asking import ask, stream, streamed_text, text_of, user
from tests.integration.contract.script import GREETING, SPLIT, WORDS


def test_the_order_of_chunks(client: OpenAI) -> None:
    chunks = stream(client)
    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert streamed_text(chunks) == GREETING
    assert len(middle) > 1
    assert {choice.finish_reason for choice in (first, *middle)} == {None}
    assert {choice.delta.role for choice in middle} == {None}
    assert (last.finish_reason, last.delta.content) == ("stop", None)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_usage(client: OpenAI) -> None:
    whole = ask(client).usage
    assert {chunk.usage for chunk in stream(client)} == {None}
    *others, last = stream(client, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], whole)
    assert {chunk.usage for chunk in others} == {None}
    options = {"include_usage": True, "continuous_usage_stats": True}
    *others, last = stream(client, stream_options=options)
    assert last.usage == whole
    running = [chunk.usage.completion_tokens for chunk in others if chunk.usage is not None]
    assert len(running) == len(others)
    assert running == sorted(running)


def test_characters_that_tokens_split(client: OpenAI) -> None:
    chunks = stream(client, "Spell it.")
    assert streamed_text(chunks) == SPLIT
    assert "\ufffd" not in "".join(streamed_text([chunk]) for chunk in chunks)
    cut = stream(client, "Spell it.", max_tokens=3)
    assert SPLIT.startswith(streamed_text(cut))


@pytest.mark.parametrize("fields", [{"stop": "o thr"}, {"max_tokens": 3}, {"n": 2}, {"stop": ["our", "four"]}])
def test_the_same_as_the_whole(client: OpenAI, fields: dict[str, object]) -> None:
    whole = ask(client, "Count.", **fields)
    chunks = stream(client, "Count.", **fields)
    for choice in whole.choices:
        own = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in own) == choice.message.content
        assert [part.finish_reason for part in own if part.finish_reason] == [choice.finish_reason]


def test_the_clients_own_way_to_add_it_up(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=user("Count."), stream_options={"include_usage": True}
    ) as events:
        types = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= types
    assert text_of(final) == WORDS
    assert final.usage == ask(client, "Count.").usage
