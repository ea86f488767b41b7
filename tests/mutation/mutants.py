"""Every field that a request may have and need not have: what the router would not see if it ignored one.

They are found in the models of the request bodies, so a new field is among them by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from router.api.anthropic import MessagesBody
from router.api.chat import ChatRequest
from router.api.completions import CompletionRequest
from router.api.request import RequestModel
from router.api.responses import ResponsesBody
from router.api.tokens import TokenizeRequest
from router.endpoints.chat import ChatEndpoint
from router.endpoints.completions import CompletionEndpoint
from router.endpoints.messages import MessagesEndpoint
from router.endpoints.responses import ResponsesEndpoint
from router.endpoints.tokenize import TokenizeEndpoint


@dataclass(frozen=True, kw_only=True)
class Api:
    """An endpoint, the model of its body, and whether what stands in that is another API's as well."""

    endpoint: type[Any]
    body: type[RequestModel]
    is_shared: bool = False


APIS = {
    "chat": Api(endpoint=ChatEndpoint, body=ChatRequest),
    "completions": Api(endpoint=CompletionEndpoint, body=CompletionRequest),
    "responses": Api(endpoint=ResponsesEndpoint, body=ResponsesBody),
    "messages": Api(endpoint=MessagesEndpoint, body=MessagesBody),
    "tokenize": Api(endpoint=TokenizeEndpoint, body=TokenizeRequest, is_shared=True),
}


def mutants(api: str) -> list[str]:
    """The names of an API's mutants: "chat.temperature", "chat.ImagePart.uuid".

    Left out is what a request can't do without: to ignore it would be to refuse every request. So is a field that has
    only one value, which says nothing.
    """
    body = APIS[api].body
    return [
        name_of(api, model, field)
        for model in ([body] if APIS[api].is_shared else _models(body))
        for field, info in model.model_fields.items()
        if not info.is_required() and not _is_constant(info.annotation)
    ]


def name_of(api: str, model: type[BaseModel], field: str) -> str:
    return f"{api}.{field}" if model is APIS[api].body else f"{api}.{model.__name__}.{field}"


def fields_of(api: str, request: BaseModel) -> set[str]:
    """The mutants that are about something in this request."""
    return {
        name_of(api, type(model), field)
        for model in _instances(request)
        for field in model.model_fields_set & type(model).model_fields.keys()
        if getattr(model, field) != type(model).model_fields[field].get_default(call_default_factory=True)
    }


def without(api: str, mutant: str, request: Any, body: Any) -> Any:
    """The body of a request without a field.

    Args:
        api: of `APIS`.
        mutant: of that API.
        request: what the body was parsed as.
        body: its JSON, which stays as it is.
    """
    match request, body:
        case BaseModel(), dict():
            kept = {}
            for field, info in type(request).model_fields.items():
                key = info.alias or field
                if key in body and name_of(api, type(request), field) != mutant:
                    kept[key] = without(api, mutant, getattr(request, field), body[key])
            unknown = body.keys() - {info.alias or field for field, info in type(request).model_fields.items()}
            return kept | {key: body[key] for key in unknown}
        case list(), list():
            return [without(api, mutant, entry, raw) for entry, raw in zip(request, body, strict=True)]
        case _:
            return body


def _models(body: type[BaseModel]) -> list[type[BaseModel]]:
    """All that may stand in a body, itself first."""
    found = [body]
    for model in found:  # which grows meanwhile
        for info in model.model_fields.values():
            found += [each for each in _named(info.annotation) if each not in found]
    return found


def _named(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type: X | None, list[X], Annotated[X, ...], dict[str, X]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _named(argument)


def _instances(value: Any) -> Iterator[BaseModel]:
    match value:
        case BaseModel():
            yield value
            for field in type(value).model_fields:
                yield from _instances(getattr(value, field))
        case list():
            for entry in value:
                yield from _instances(entry)


def _is_constant(annotation: Any) -> bool:
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1
