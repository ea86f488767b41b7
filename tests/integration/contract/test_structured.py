"""Structured answers. The fakes say what fits; that a model can't say anything else is shown with real ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from tests.integration.contract.asking import ask, stream, streamed_text, text_of, user
from tests.integration.contract.script import CITY, CITY_TEXT


class City(BaseModel):
    name: str
    people: int
    rivers: list[str]


SCHEMA = City.model_json_schema()
STRICT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
TAGS = {
    "type": "structural_tag",
    "structures": [{"begin": "<city>", "schema": SCHEMA, "end": "</city>"}],
    "triggers": ["<city>"],
}


def test_parse(client: OpenAI) -> None:
    fields = {"model": "demo", "messages": user("Describe a city."), "response_format": City}
    answer = client.chat.completions.parse(**fields)
    assert answer.choices[0].message.parsed == City(**CITY)
    with client.chat.completions.stream(**fields) as events:
        done = [event for event in events if event.type == "content.done"]
    assert [event.parsed for event in done] == [City(**CITY)]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": STRICT},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
        {"response_format": TAGS},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"guided_json": json.dumps(SCHEMA), "guided_whitespace_pattern": " ?"}},
        {"extra_body": {"guided_regex": r"\{.*\}"}},
        {"extra_body": {"guided_choice": [CITY_TEXT, "none"]}},
        {"extra_body": {"guided_grammar": 'root ::= "{" [^}]* "}"'}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}}},
        {"extra_body": {"structured_outputs": {"regex": r"\{.*\}"}}},
        {"extra_body": {"structured_outputs": {"choice": [CITY_TEXT]}}},
        {"extra_body": {"structured_outputs": {"grammar": 'start: "{" /[^}]*/ "}"'}}},
        {"extra_body": {"structured_outputs": {"json_object": True}}},
        {"extra_body": {"structured_outputs": {"structural_tag": TAGS}}},
    ],
)
def test_every_spelling(client: OpenAI, fields: dict[str, Any]) -> None:
    assert text_of(ask(client, "Describe a city.", **fields)) == CITY_TEXT
    assert streamed_text(stream(client, "Describe a city.", **fields)) == CITY_TEXT


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}},
            "response_format.json_schema.schema",
        ),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
        ({"extra_body": {"guided_grammar": "root ::= missing"}}, "guided_grammar"),
        ({"extra_body": {"guided_choice": []}}, "guided_choice"),
        ({"extra_body": {"structured_outputs": {"json": "{"}}}, "structured_outputs.json"),
        ({"response_format": STRICT, "extra_body": {"guided_choice": ["a"]}}, "guided_choice"),
    ],
)
def test_what_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "Describe a city.", **fields)
    assert caught.value.param == param
