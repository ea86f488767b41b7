"""The OpenAPI document: what the paths take and how they answer.

Bodies are read by us and not by FastAPI, so what they hold is told to it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Responses = dict[int | str, dict[str, Any]]

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "the request's field that it is about"},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
_KEYS = {  # each of them will do
    "bearer": {"type": "http", "scheme": "bearer", "description": "as OpenAI's clients send the key"},
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "as Anthropic's clients send the key",
    },
}
_MEANING = {
    400: "The request is wrong; `error.param` names the field.",
    401: "The API key is missing or wrong.",
    404: "There is no such thing, or no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too much is in progress; see Retry-After.",
    431: "The header is too large.",
    500: "It is our fault.",
    503: "No server can do it now; see Retry-After.",
    504: "It took too long.",
}
OF_GENERATION = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def answers(description: str, content: Mapping[str, Any], *errors: int, error: str = "Error") -> Responses:
    """The answers of a path.

    Args:
        description: of the good one, status 200.
        content: its JSON schema by content type.
        errors: statuses that it may have besides, and besides 431, which every path may have.
        error: the schema of their bodies.
    """
    good = {"description": description, "content": {name: {"schema": schema} for name, schema in content.items()}}
    bad = {"application/json": {"schema": {"$ref": _REF.format(model=error)}}}
    statuses = sorted({*errors, 431})
    return {200: good, **{status: {"description": _MEANING[status], "content": bad} for status in statuses}}


def body(model: type[BaseModel]) -> dict[str, Any]:
    """What a path takes, for `openapi_extra`; `components` has to know the model."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parameter(name: str, place: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    """One parameter of a path, in its "path" or "query", for `openapi_extra`."""
    entry = {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}
    return {"parameters": [entry]}


def complete(document: dict[str, Any], bodies: Iterable[type[BaseModel]], *, with_keys: bool) -> None:
    """Adds what FastAPI does not know to its document.

    Args:
        document: is changed.
        bodies: that paths take.
        with_keys: requests need one, where a path says that they may be a 401.
    """
    _, schemas = models_json_schema([(model, "validation") for model in bodies], ref_template=_REF)
    components = document.setdefault("components", {})
    components["schemas"] = {"Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR, **schemas.get("$defs", {})}
    components["securitySchemes"] = _KEYS
    security: list[dict[str, list[str]]] = [{name: []} for name in _KEYS]
    if not with_keys:
        security.append({})  # none will do as well
    for path in document["paths"].values():
        for operation in path.values():
            if "401" in operation["responses"]:
                operation["security"] = security
