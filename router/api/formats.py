"""What the answer has to look like: OpenAI's `response_format`, and vLLM's two spellings of the same and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from common.grammars import MAX_GRAMMAR_BYTES
from router import strict_json
from router.api.request import RequestModel
from router.api.structural_tags import JsonContent, Tag, TagFormat, TriggeredTags
from router.problems import Problem

Schema = dict[str, Any]
Choices = Annotated[list[str], Field(min_length=1, max_length=10_000)]


@dataclass(frozen=True, kw_only=True)
class JsonFormat:
    """JSON that follows a schema; `lenient`: as far as the schema is understood."""

    param: str  # of all formats: the field that asks for it
    schema: Schema
    lenient: bool = False
    whitespace: str | None = None  # a regular expression, for what may stand between the parts


@dataclass(frozen=True, kw_only=True)
class RegexFormat:
    """All of it matches."""

    param: str
    pattern: str


@dataclass(frozen=True, kw_only=True)
class ChoiceFormat:
    """One of the options."""

    param: str
    options: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class GrammarFormat:
    """In Lark's syntax, as llguidance has it, or in GBNF."""

    param: str
    source: str


@dataclass(frozen=True, kw_only=True)
class TagsFormat:
    """Structural tags."""

    param: str
    tags: TagFormat


ContentFormat = JsonFormat | RegexFormat | ChoiceFormat | GrammarFormat | TagsFormat


class TextFormat(RequestModel):
    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    type: Literal["json_object"]


class JsonSchema(RequestModel):
    """The answer follows the schema, or is any object if there is none. What can't be enforced of it is a 400 if it is
    `strict`, and left out if not."""

    name: str
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool = False


class JsonSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class TagStructure(RequestModel):
    begin: str
    schema_: Annotated[Schema, Field(alias="schema", default_factory=dict)]
    end: str


class StructuralTagFormat(RequestModel):
    """Either `format`, or the older `structures` and `triggers`, which say the same as `triggered_tags`."""

    type: Literal["structural_tag"]
    format: TagFormat | None = None
    structures: Annotated[list[TagStructure], Field(min_length=1, max_length=1000)] | None = None
    triggers: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None

    def tags(self, param: str) -> TagFormat:
        """Raises Problem (400)."""
        if self.format is not None:
            return self.format
        if self.structures is None or self.triggers is None:
            raise Problem(400, f"{param}: a structural tag has a format, or structures and triggers", param=param)
        tags = [
            Tag(begin=each.begin, content=JsonContent(type="json_schema", json_schema=each.schema_), end=each.end)
            for each in self.structures
        ]
        try:
            return TriggeredTags(type="triggered_tags", triggers=self.triggers, tags=tags)
        except ValidationError as error:
            raise _invalid(param, error) from None


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | StructuralTagFormat, Field(discriminator="type")
]


class StructuredOutputs(RequestModel):
    """vLLM's: one of the first six, and how to do it."""

    json_: Annotated[str | Schema | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | Schema | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: Literal[False] = False
    disable_additional_properties: Literal[False] = False
    disable_fallback: bool = False  # there is nothing to fall back to


_ANY_OBJECT: Schema = {"type": "object"}
_CONSTRAINTS = {"json_", "regex", "choice", "grammar", "structural_tag"}
_SPELLED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class FormatFields(RequestModel):
    """The fields of a request that say what its answer has to look like. At most one of them may."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    def content_format(self) -> ContentFormat | None:
        """What they say, or None if the answer may be any text.

        Raises:
            Problem: 400; there are two of them, or one makes no sense.
        """
        wanted = [*self._of_response_format(), *self._of_structured_outputs(), *self._of_guided()]
        if len(wanted) > 1:
            fields = ", ".join(each.param for each in wanted)
            raise Problem(400, f"{fields}: only one of these can be asked for", param=wanted[1].param)
        if self.guided_whitespace_pattern is not None and not (wanted and isinstance(wanted[0], JsonFormat)):
            param = "guided_whitespace_pattern"
            raise Problem(400, f"{param} says something about JSON, which is not asked for", param=param)
        return wanted[0] if wanted else None

    def _of_response_format(self) -> Iterator[ContentFormat]:
        param, whitespace = "response_format", self.guided_whitespace_pattern
        match self.response_format:
            case JsonObjectFormat():
                yield JsonFormat(param=param, schema=_ANY_OBJECT, whitespace=whitespace)
            case JsonSchemaFormat(json_schema=wanted):
                param += ".json_schema.schema"
                schema, lenient = wanted.schema_, not wanted.strict
                if schema is None:
                    schema = _ANY_OBJECT
                yield JsonFormat(param=param, schema=schema, lenient=lenient, whitespace=whitespace)
            case StructuralTagFormat() as wanted:
                yield TagsFormat(param=param, tags=wanted.tags(param))

    def _of_structured_outputs(self) -> Iterator[ContentFormat]:
        wanted = self.structured_outputs
        if wanted is None:
            return
        param = "structured_outputs"
        if not (wanted.json_object or wanted.model_fields_set & _CONSTRAINTS):
            raise Problem(400, f"{param} has to say what is wanted: one of {', '.join(_SPELLED)}", param=param)
        if wanted.json_ is not None:
            schema = _schema(wanted.json_, f"{param}.json")
            yield JsonFormat(param=f"{param}.json", schema=schema, whitespace=wanted.whitespace_pattern)
        if wanted.json_object:
            yield JsonFormat(param=f"{param}.json_object", schema=_ANY_OBJECT, whitespace=wanted.whitespace_pattern)
        if wanted.structural_tag is not None:
            yield TagsFormat(
                param=f"{param}.structural_tag", tags=_tags(wanted.structural_tag, f"{param}.structural_tag")
            )
        yield from _plain(f"{param}.", wanted.regex, wanted.choice, wanted.grammar)

    def _of_guided(self) -> Iterator[ContentFormat]:
        if self.guided_json is not None:
            schema = _schema(self.guided_json, "guided_json")
            yield JsonFormat(param="guided_json", schema=schema, whitespace=self.guided_whitespace_pattern)
        yield from _plain("guided_", self.guided_regex, self.guided_choice, self.guided_grammar)


def _plain(
    prefix: str, regex: str | None, choice: Sequence[str] | None, grammar: str | None
) -> Iterator[ContentFormat]:
    if regex is not None:
        yield RegexFormat(param=f"{prefix}regex", pattern=regex)
    if choice is not None:
        yield ChoiceFormat(param=f"{prefix}choice", options=choice)
    if grammar is not None:
        yield GrammarFormat(param=f"{prefix}grammar", source=grammar)


def _schema(value: str | Schema, param: str) -> Schema:
    """vLLM takes it as an object or as its JSON text."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_GRAMMAR_BYTES:  # the limits on bodies do not count what is in a string
        raise Problem(400, f"{param}: it may have {MAX_GRAMMAR_BYTES} bytes", param=param)
    try:
        schema = strict_json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"{param}: it is not JSON: {error}", param=param) from None
    if not isinstance(schema, dict):
        raise Problem(400, f"{param}: a JSON schema is an object", param=param)
    return schema


_TAG_FORMAT: TypeAdapter[StructuralTagFormat] = TypeAdapter(StructuralTagFormat)


def _tags(value: str | Schema, param: str) -> TagFormat:
    try:
        return _TAG_FORMAT.validate_python(_schema(value, param)).tags(param)
    except ValidationError as error:
        raise _invalid(param, error) from None


def _invalid(param: str, error: ValidationError) -> Problem:
    fault = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(map(str, fault["loc"]))
    return Problem(400, f"{param}: {path + ': ' if path else ''}{fault['msg']}", param=param)
