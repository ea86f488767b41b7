from __future__ import annotations

import json
from random import Random

import pytest

from deploy.demo.scenes.talk import GREETINGS, TALK_KINDS, talk


@pytest.mark.parametrize("seed", range(5))
def test_every_kind(seed: int) -> None:
    questions = {kind: talk(kind, Random(seed)) for kind in TALK_KINDS}
    assert questions["greeting"].answer == GREETINGS[questions["greeting"].text]
    a, _, b, _, total = questions["sum"].answer.rstrip(".").split()
    assert int(a) + int(b) == int(total)
    assert questions["sum"].text == f"What is {a} plus {b}?"
    assert questions["thought"].answer.endswith(f"</think>\n\n{total}")


def test_a_tool_call_names_the_tool_that_is_offered() -> None:
    question = talk("tool call", Random(0))
    (tool,) = question.tools
    body = question.answer.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    call = json.loads(body)
    assert call["name"] == tool.schema()["function"]["name"]  # type: ignore[index]
    assert set(call["arguments"]) == set(tool.parameters)
    assert call["arguments"]["city"] in question.text
