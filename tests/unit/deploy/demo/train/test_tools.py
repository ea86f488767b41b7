from __future__ import annotations

import json
from random import Random

from deploy.demo.scenes.talk import talk
from deploy.demo.train.tools import respell


def test_the_answer_calls_the_tool_as_it_is_spelled() -> None:
    schemas = set()
    for seed in range(60):
        rng = Random(seed)
        question = respell(talk("tool call", rng), rng)
        (tool,) = question.tools
        function = json.loads(json.dumps(tool.schema()))["function"]
        body = question.answer.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        call = json.loads(body)
        assert call["name"] == function["name"]
        assert list(call["arguments"]) == list(function["parameters"]["properties"])
        assert list(call["arguments"]) == function["parameters"]["required"]
        schemas.add(json.dumps(function))
    assert len(schemas) > 50
