"""The OpenAPI document: what tools need to read it, and that it says how the paths answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openapi_spec_validator
import pytest

from tests.integration.router.system import CONFIG, routing

OF_GENERATION = {"200", "400", "401", "404", "408", "413", "415", "429", "431", "500", "503", "504"}


@pytest.fixture
async def document() -> dict[str, Any]:
    """No server need be there for it."""
    async with routing(CONFIG, until=None) as router:
        response = await router.client.get("/openapi.json")
    document: dict[str, Any] = json.loads(response.content)
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_it_is_valid(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)


async def test_it_is_complete(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "epd-serve"
    assert {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/ready",
        "/servers",
        "/version",
        "/metrics",
    } <= set(document["paths"])
    for reference in set(references(document)):
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in document["components"]["schemas"], reference
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


async def test_each_operation_says_what_it_takes_and_how_it_answers(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        shown = f"{method} {path}"
        assert operation["summary"], shown
        in_path = {entry["name"] for entry in operation.get("parameters", []) if entry["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path)), shown
        assert "422" not in operation["responses"], f"{shown}: FastAPI's own, which never occurs"
        for status, response in operation["responses"].items():
            assert response["description"], shown
            assert response["content"], shown
            for content_type, content in response["content"].items():
                assert content["schema"], (shown, content_type)
                if status >= "400" and not (path == "/ready" and status == "503"):
                    assert content["schema"]["$ref"].endswith("Error"), shown
        assert "431" in operation["responses"], shown
        if method == "post":
            assert set(operation["responses"]) == OF_GENERATION, shown
            (body,) = operation["requestBody"]["content"].values()
            schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
            assert schema["type"] == "object", shown
            assert schema["properties"], shown


@pytest.mark.parametrize("keys", [(), ("a-key",)])
async def test_it_says_where_a_key_is_needed(keys: tuple[str, ...]) -> None:
    async with routing(replace(CONFIG, api_key=keys), until=None) as router:
        document = json.loads((await router.client.get("/openapi.json")).content)
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["x-api-key"]["in"], schemes["x-api-key"]["name"]) == ("header", "x-api-key")
    either: list[Any] = [{"bearer": []}, {"x-api-key": []}]
    for path, method, operation in operations(document):
        needs = path.startswith("/v1/") or path in ("/tokenize", "/detokenize", "/servers")
        expected = either + ([] if keys else [{}]) if needs else None
        assert operation.get("security") == expected, f"{method} {path}"
