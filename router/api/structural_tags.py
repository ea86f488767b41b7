"""Structural tags: text of which some parts have a form, as XGrammar describes them and vLLM takes them.

{"type": "triggered_tags", "triggers": ["<f="], "tags": [
    {"type": "tag", "begin": "<f=add>", "content": {"type": "json_schema", "json_schema": {...}}, "end": "</f>"}]}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from router.api.request import RequestModel

_MOST = 1000
_Word = Annotated[str, Field(min_length=1)]


class ConstString(RequestModel):
    type: Literal["const_string"]
    value: str


class JsonContent(RequestModel):
    type: Literal["json_schema"]
    json_schema: dict[str, Any]


class RegexContent(RequestModel):
    type: Literal["regex"]
    pattern: str


class GrammarContent(RequestModel):
    type: Literal["grammar"]
    grammar: str


class AnyText(RequestModel):
    """To the end of the tag that it is the content of, or of the answer."""

    type: Literal["any_text"]


class Sequence(RequestModel):
    type: Literal["sequence"]
    elements: Annotated[list[TagFormat], Field(min_length=1, max_length=_MOST)]


class Or(RequestModel):
    type: Literal["or"]
    elements: Annotated[list[TagFormat], Field(min_length=1, max_length=_MOST)]


class Tag(RequestModel):
    type: Literal["tag"] = "tag"
    begin: str
    content: TagFormat
    end: str


class TriggeredTags(RequestModel):
    """Free text; where a trigger is written, one of the tags that begin with it has to follow."""

    type: Literal["triggered_tags"]
    triggers: Annotated[list[_Word], Field(min_length=1, max_length=_MOST)]
    tags: Annotated[list[Tag], Field(min_length=1, max_length=_MOST)]
    at_least_one: bool = False
    stop_after_first: bool = False

    @model_validator(mode="after")
    def _triggers_fit(self) -> TriggeredTags:
        for i, tag in enumerate(self.tags):
            if sum(tag.begin.startswith(trigger) for trigger in self.triggers) != 1:
                raise ValueError(f"tags[{i}] has to begin with one of the triggers, and with one only")
        return self


class SeparatedTags(RequestModel):
    """Tags and nothing else, with a separator between them."""

    type: Literal["tags_with_separator"]
    tags: Annotated[list[Tag], Field(min_length=1, max_length=_MOST)]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


TagFormat = Annotated[
    ConstString
    | JsonContent
    | RegexContent
    | GrammarContent
    | AnyText
    | Sequence
    | Or
    | Tag
    | TriggeredTags
    | SeparatedTags,
    Field(discriminator="type"),
]
for _model in (Sequence, Or, Tag, TriggeredTags, SeparatedTags):
    _model.model_rebuild()
