"""Streams of chat completions. What stands between a client and a silent stream is shown in router/test_text.py."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.integration.contract.asking import ask, stream, text_of, user
from tests.integration.contract.script import WORDS


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
