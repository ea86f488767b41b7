"""The four kinds of fields, for the APIs that take OpenAI's own names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from router.api.chat import ChatRequest, parse_chat_request
from router.api.completions import CompletionRequest, parse_completion_request
from router.api.fields import ACCEPTED, UNSUPPORTED
from router.problems import Problem

APIS = [
    (ChatRequest, parse_chat_request, {"messages": [{"role": "user", "content": "hi"}]}),
    (CompletionRequest, parse_completion_request, {"prompt": "hi"}),
]
REFUSED = [
    pytest.param(parse, body, name, id=f"{model.__name__}-{name}")
    for model, parse, body in APIS
    for name in sorted(set(UNSUPPORTED) - set(model.model_fields))
]


def test_every_field_is_of_one_kind() -> None:
    assert not set(UNSUPPORTED) & ACCEPTED
    for model, _, _ in APIS:
        assert not set(model.model_fields) & ACCEPTED


@pytest.mark.parametrize(("parse", "body", "name"), REFUSED)
def test_a_field_that_can_not_be_honoured_is_named(parse: Any, body: Any, name: str) -> None:
    with pytest.raises(Problem) as refused:
        parse({**body, name: {"something": "else"}}, max_choices=1)
    problem = refused.value
    assert (problem.status, problem.param, problem.code) == (400, name, "unsupported_parameter")
    for neutral in (None, *UNSUPPORTED[name]):
        assert parse({**body, name: neutral}, max_choices=1).ignored == ()


@pytest.mark.parametrize(("model", "parse", "body"), APIS)
def test_what_means_nothing_is_accepted(model: Any, parse: Any, body: Any) -> None:
    parsed = parse({**body, **dict.fromkeys(ACCEPTED, "x")}, max_choices=1)
    assert parsed.ignored == ()
    assert parsed.request == parse(body, max_choices=1).request


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsBase),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
    ],
)
def test_every_field_of_the_official_client_is_known(model: Any, reference: type) -> None:
    assert set(get_type_hints(reference)) <= set(model.model_fields) | ACCEPTED | set(UNSUPPORTED)


REFERENCE = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows below a heading of the reference."""
    section = REFERENCE.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert rows
    return rows


def test_the_reference_has_every_honoured_field() -> None:
    of = {name.strip("`"): apis for name, apis, *_ in table("Honoured")}
    for api, model in (("chat", ChatRequest), ("completions", CompletionRequest)):
        assert {name for name, apis in of.items() if apis.strip(" |") in (api, "both")} == set(model.model_fields)


def test_the_reference_has_every_accepted_field() -> None:
    (listed,) = re.findall(r"\*\*Accepted\*\*[^:]*:([^.]*)\.", REFERENCE)
    assert set(re.findall(r"`(\w+)`", listed)) == ACCEPTED


def test_the_reference_has_every_refused_field() -> None:
    honoured = set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)
    shown = {
        row[0].strip("` |"): tuple(json.loads(value) for value in re.findall(r"`([^`]+)`", "".join(row[1:])))
        for row in table("Refused")
    }
    assert shown == {name: neutral for name, neutral in UNSUPPORTED.items() if name not in honoured}
