"""What a language server is told to hold an answer to, tried with llguidance's own matcher."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from common.pb import language_pb2
from tests.integration.router.peers import EOS, INFO, MODEL_DIR
from tests.integration.router.system import body_of, ids_of, says, system

ENGINE = LLTokenizer((MODEL_DIR / "tokenizer.json").read_text(), n_vocab=INFO.vocab_size, eos_token=[EOS])
PATHS = {"/v1/chat/completions": body_of("hi"), "/v1/completions": {"prompt": "hi"}}

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TAG = {"begin": "<f>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</f>"}
FREE = {"type": "triggered_tags", "triggers": ["<f>"], "tags": [TAG]}
LISTED = {"type": "tags_with_separator", "tags": [TAG], "separator": ","}
CALL = '<f>{"a": 1}</f>'


def tags(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "structural_tag", "format": wanted}}


def schema(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, **fields}}}


def outputs(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


# fields, answers that follow them, answers that do not
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"response_format": {"type": "json_object"}}, ['{"b": []}'], ["[]", "hi"]),
    (schema(), ['{"a": 1}'], ['{"b": 1}', "hi"]),
    (schema(strict=True), ['{"a": 1}'], ['{"b": 1}', "hi"]),
    ({"guided_json": SCHEMA}, ['{"a": 1}'], ['{"b": 1}']),
    ({"guided_json": json.dumps(SCHEMA)}, ['{"a": 1}'], ['{"b": 1}']),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": "~?"}, ['{"a":~1}'], ['{"a": 1}']),
    ({"guided_regex": "a+b"}, ["aab"], ["b", "aabb"]),
    ({"guided_choice": ["yes", "no"]}, ["yes", "no"], ["maybe", "yesno"]),
    ({"guided_grammar": 'root ::= "x" | "y"'}, ["x"], ["z"]),
    (outputs(json=SCHEMA), ['{"a": 1}'], ['{"b": 1}']),
    (outputs(json=SCHEMA, whitespace_pattern="~?"), ['{"a":~1}'], ['{"a": 1}']),
    (outputs(regex="a+b"), ["aab"], ["b"]),
    (outputs(choice=["yes", "no"]), ["no"], ["maybe"]),
    (outputs(grammar='start: "x" | "y"'), ["y"], ["z"]),
    (outputs(json_object=True), ['{"b": []}'], ["hi"]),
    (outputs(structural_tag={"type": "structural_tag", "format": FREE}), [CALL, "hi"], ["<f>hi</f>"]),
    (tags(FREE), ["hi", f"hi {CALL} and {CALL}."], ["<f>hi</f>"]),
    (tags({**FREE, "at_least_one": True}), [f"hi {CALL}"], ["hi"]),
    (tags({**FREE, "stop_after_first": True}), [f"hi {CALL}", "hi"], [f"{CALL}{CALL}", f"{CALL}."]),
    (tags(LISTED), ["", CALL, f"{CALL},{CALL}"], [f"{CALL}{CALL}", "hi"]),
    (tags({**LISTED, "at_least_one": True}), [CALL], [""]),
    (tags({**LISTED, "stop_after_first": True}), [CALL], [f"{CALL},{CALL}"]),
    (
        {
            "response_format": {
                "type": "structural_tag",
                "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
                "triggers": ["<f>"],
            }
        },
        ["hi", f"hi {CALL}"],
        ["<f>hi</f>", '<f>{"b": 1}</f>'],
    ),
]


def follows(grammar: language_pb2.Grammar, answer: str) -> bool:
    matcher = LLMatcher(ENGINE, grammar.source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = ids_of(answer)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@pytest.mark.parametrize("path", PATHS)
async def test_every_field(path: str) -> None:
    async with system(says("x")) as (router, (language,), _):
        for fields, good, bad in CASES:
            response = await router.client.post(path, json=PATHS[path] | fields)
            assert response.status_code == 200, response.text
            sampling = language.served[-1].generate.sampling
            assert sampling.HasField("grammar"), fields
            for answer in good:
                assert follows(sampling.grammar, answer), (fields, answer)
            for answer in bad:
                assert not follows(sampling.grammar, answer), (fields, answer)


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_strict_schema_may_not_have(path: str) -> None:
    """It is left out of one that is not strict."""
    unknown = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    async with system(says("x")) as (router, (language,), _):
        for strict, status in ((False, 200), (True, 400)):
            wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": unknown, "strict": strict}}
            response = await router.client.post(path, json=PATHS[path] | {"response_format": wanted})
            assert response.status_code == status, response.text
        assert follows(language.served[-1].generate.sampling.grammar, "[1, 1]")
