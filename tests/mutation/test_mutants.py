"""The mutants themselves: which there are, and that they overlook what they should and nothing else."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest

from router.api.chat import ChatRequest
from router.api.completions import CompletionRequest
from router.endpoints.chat import ChatEndpoint
from router.endpoints.responses import ResponsesEndpoint
from router.problems import Problem
from tests.mutation.dropping import overlooking
from tests.mutation.mutants import mutants
from tests.mutation.run import INERT

IMAGE = {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}, "uuid": "cat"}
BODY = {
    "messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "hi"}]}],
    "temperature": 0.5,
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
    "zebra": 1,
}


def parsed(drop: str | None, body: Any, record: Path | None = None) -> Any:
    parse = overlooking(ChatEndpoint.parse, "chat", drop=drop, record=record)
    return parse(ChatEndpoint(), body, max_choices=4)


@pytest.mark.parametrize(("api", "model"), [("chat", ChatRequest), ("completions", CompletionRequest)])
def test_every_field_that_is_not_required_is_dropped_once(api: str, model: Any) -> None:
    names = mutants(api)
    assert len(names) == len(set(names))
    required = {name for name, info in model.model_fields.items() if info.is_required()}
    assert {name.partition(".")[2] for name in names if name.count(".") == 1} == model.model_fields.keys() - required


def test_fields_that_change_nothing_are_fields() -> None:
    known = [mutant for api in ("chat", "completions", "responses", "messages", "tokenize") for mutant in mutants(api)]
    for pattern in INERT:
        assert fnmatch.filter(known, pattern), pattern


def test_a_field_is_overlooked_and_nothing_else() -> None:
    whole = parsed(None, BODY).request
    without = parsed("chat.temperature", BODY)
    assert without.request == whole.model_copy(update={"temperature": None})
    assert without.ignored == ("zebra",)
    nested = parsed("chat.ImagePart.uuid", BODY).request
    (part, _) = nested.messages[0].content
    assert (part.uuid, part.image_url.detail) == (None, "low")
    assert parsed("chat.ImageUrl.detail", BODY).request.messages[0].content[0].image_url.detail == "auto"
    assert not parsed("chat.JsonSchema.strict", BODY).request.response_format.json_schema.strict


def test_what_makes_no_sense_without_the_field_stays() -> None:
    assert parsed("chat.logprobs", BODY).request.logprobs


def test_requests_are_refused_as_ever() -> None:
    with pytest.raises(Problem) as caught:
        parsed("chat.temperature", {**BODY, "temperature": "hot"})
    assert caught.value.param == "temperature"


def test_a_body_that_is_translated() -> None:
    parse = overlooking(ResponsesEndpoint.parse, "responses", drop="responses.instructions", record=None)
    request = parse(ResponsesEndpoint(), {"input": "hi", "instructions": "Be brief.", "seed": 3}, max_choices=1).request
    assert [message.role for message in request.chat.messages] == ["user"]
    assert request.chat.seed == 3


def test_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    parsed(None, {**BODY, "n": 1, "stream": False}, path)
    lines = path.read_text().splitlines()
    assert {line for line in lines if line.endswith(" needed")} >= {"chat.messages needed", "chat.logprobs needed"}
    assert {line.partition(" ")[0] for line in lines} == {
        "chat.messages",
        "chat.temperature",
        "chat.logprobs",
        "chat.top_logprobs",
        "chat.response_format",
        "chat.UserMessage.content",
        "chat.UserMessage.role",
        "chat.ImagePart.type",
        "chat.ImagePart.image_url",
        "chat.ImagePart.uuid",
        "chat.ImageUrl.url",
        "chat.ImageUrl.detail",
        "chat.TextPart.type",
        "chat.TextPart.text",
        "chat.JsonSchemaFormat.type",
        "chat.JsonSchemaFormat.json_schema",
        "chat.JsonSchema.name",
        "chat.JsonSchema.schema_",
        "chat.JsonSchema.strict",
    }
