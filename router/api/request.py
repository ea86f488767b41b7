"""What all request bodies have in common: models that are strict, and errors that name the field.

Every field of a body is of one of four kinds: honoured (declared in a model), accepted because doing nothing is what it
means, known but not to be honoured here (a 400 that names it, unless its value asks for nothing), and unknown (told to
the client in the header X-Ignored-Fields, or refused as well). `null` always means "not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from router.api.paths import UNCHANGED, Paths
from router.problems import Problem

T = TypeVar("T")

MAX_ENTRIES = 10_000
# The first fault is the one that is shown, so nobody has to look for others.
Entries = Annotated[list[T], Field(max_length=MAX_ENTRIES, fail_fast=True)]


class RequestModel(BaseModel):
    """Strict about types, and null is not given."""

    # Unknown fields are kept: `Parsed.ignored` lists them.
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


# Tags of unions begin with "#": pydantic puts them into the paths of errors, where `_path` would take one that is the
# name of a field for that field. (With `discriminator` they are as clients write them. An object that has a field of
# such a name has no other that could be wrong.)
def text_or_list(value: Any) -> str:
    return "#text" if isinstance(value, str) else "#list"


def text_or_object(value: Any) -> str:
    return "#text" if isinstance(value, str) else "#object"


def type_of(value: Any) -> Any:
    """The `type` of an object that a client sent, or of the model that was made of it."""
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


RequestT = TypeVar("RequestT", bound=RequestModel)


@dataclass(frozen=True, kw_only=True)
class Parsed(Generic[T]):
    request: T
    ignored: tuple[str, ...]  # paths of unknown fields
    paths: Paths = UNCHANGED  # of what problems name


def parse(
    model: type[RequestT], body: Any, *, accepted: Set[str], unsupported: Mapping[str, tuple[Any, ...]]
) -> Parsed[RequestT]:
    """A body as its model has it.

    Args:
        model: what it declares is honoured.
        body: parsed JSON.
        accepted: fields that mean nothing here, unless `model` declares them.
        unsupported: fields that are not honoured unless `model` declares them, and the values that they may have
            because these ask for nothing.

    Raises:
        Problem: 400, names the field.
    """
    if not isinstance(body, dict):
        raise Problem(400, "the request body has to be a JSON object")
    honoured = model.model_fields.keys()
    for name, neutral in unsupported.items():
        if name in honoured:
            continue
        value = body.get(name)
        asks = not any(value == taken and isinstance(value, bool) == isinstance(taken, bool) for taken in neutral)
        if value is not None and asks:
            raise unsupported_field(name)
    meaningless = (unsupported.keys() | accepted) - honoured
    known = {name: value for name, value in body.items() if name not in meaningless}
    try:
        request = model.model_validate(known)
    except ValidationError as error:
        raise _problem(error, known) from None
    return Parsed(request=request, ignored=tuple(_unknown_fields(request)))


def unsupported_field(param: str) -> Problem:
    """What to say about a field that is known and not honoured."""
    return Problem(400, f"{param} is not supported by this server", param=param, code="unsupported_parameter")


def _unknown_fields(value: Any, path: str = "") -> list[str]:
    if isinstance(value, list):
        return [name for i, entry in enumerate(value) for name in _unknown_fields(entry, f"{path}[{i}]")]
    if not isinstance(value, BaseModel):
        return []
    prefix = f"{path}." if path else ""
    names = [prefix + name for name in value.model_extra or {}]
    for name in value.model_fields_set:
        names += _unknown_fields(getattr(value, name), prefix + name)
    return names


def _problem(error: ValidationError, body: Mapping[str, Any]) -> Problem:
    """The first fault, with the path of the field as a client would write it."""
    fault = error.errors(include_url=False, include_context=False)[0]
    path = _path(fault["loc"], body, is_missing=fault["type"] == "missing")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return Problem(400, f"{path or 'request body'}: {fault['msg']}", param=path or None, code=code)


def _path(location: Sequence[int | str], body: Any, *, is_missing: bool) -> str:
    """pydantic's location without the names of union members that it mixes in."""
    path = ""
    last = len(location) - 1
    for i, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            body = body[step] if isinstance(body, list) and step < len(body) else None
        elif isinstance(body, Mapping) and (step in body or (is_missing and i == last)):
            path += f".{step}" if path else step
            body = body.get(step)
    return path
