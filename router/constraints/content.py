"""What the text of an answer has to look like, as a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from common.grammars import MAX_GRAMMAR_BYTES
from router.api import structural_tags as tags
from router.api.formats import ChoiceFormat, ContentFormat, GrammarFormat, JsonFormat, RegexFormat, TagsFormat
from router.constraints.lark import TEXT, Lark, Tag, regex_grammar
from router.problems import Problem

_SHOWN = 1000  # characters of what llguidance says


def content_rule(lark: Lark, wanted: ContentFormat) -> str:
    """An expression for it. Raises Problem (400): it can't be enforced, and why."""
    param = wanted.param
    match wanted:
        case JsonFormat(schema=schema, lenient=lenient, whitespace=whitespace):
            return embed(lark, json_grammar(schema, lenient=lenient, whitespace=whitespace), param)
        case RegexFormat():
            return embed(lark, regex_grammar(wanted.pattern), param)
        case ChoiceFormat():
            return f"({' | '.join(map(lark.literal, wanted.options))})"
        case GrammarFormat():
            return embed(lark, _text_grammar(wanted.source, param), param)
        case TagsFormat():
            return _tags(lark, wanted.tags, param, last=True)


def json_grammar(schema: Mapping[str, Any], *, lenient: bool = False, whitespace: str | None = None) -> dict[str, Any]:
    """Of JSON that follows a schema.

    Args:
        schema: whose own `x-guidance` goes before the options that are set here.
        lenient: what llguidance does not know of JSON schema is left out.
        whitespace: regular expression for what may stand between the parts.
    """
    # pydantic writes unions as oneOf; its members exclude each other by a constant, so that anyOf is the same
    options: dict[str, Any] = {"coerce_one_of": True, "lenient": lenient}
    if whitespace is not None:
        options["whitespace_pattern"] = whitespace
    return {"json_schema": {"x-guidance": options, **schema}}


def embed(lark: Lark, definition: Mapping[str, Any], param: str) -> str:
    """An expression for another grammar.

    Raises:
        Problem: 400; it is wrong, too large, or can't be enforced, as llguidance says.
    """
    try:
        source = json.dumps({"grammars": [definition]})
    except RecursionError:
        raise _problem(param, "it is nested too deeply") from None
    if lark.size + len(source) > MAX_GRAMMAR_BYTES:
        raise _problem(param, f"schemas and grammars of a request may have {MAX_GRAMMAR_BYTES} bytes")
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(source)
    if is_wrong:
        raise _problem(param, " ".join(messages))
    return lark.grammar(definition)


def _problem(param: str, message: str) -> Problem:
    message = message.strip()
    return Problem(400, f"{param}: {message[:_SHOWN]}", param=param, code="invalid_value")


def _text_grammar(source: str, param: str) -> dict[str, Any]:
    if len(source) > MAX_GRAMMAR_BYTES:  # the conversion of GBNF is slow
        raise _problem(param, f"a grammar may have {MAX_GRAMMAR_BYTES} bytes")
    try:
        lark = any_to_lark(source)
    except Exception as error:  # noqa: BLE001  (it is what the library raises)
        raise _problem(param, str(error)) from None
    return {"lark_grammar": lark}


def _tags(lark: Lark, wanted: tags.TagFormat, param: str, *, last: bool = False) -> str:
    """`last`: nothing follows it, so it may be text without an end."""
    if isinstance(wanted, tags.AnyText | tags.TriggeredTags) and not last:
        raise _problem(param, f"nothing can follow {wanted.type} but the end of a tag")
    match wanted:
        case tags.ConstString():
            return lark.literal(wanted.value)
        case tags.JsonContent():
            return embed(lark, json_grammar(wanted.json_schema), param)
        case tags.RegexContent():
            return embed(lark, regex_grammar(wanted.pattern), param)
        case tags.GrammarContent():
            return embed(lark, _text_grammar(wanted.grammar, param), param)
        case tags.AnyText():
            return TEXT
        case tags.Sequence(elements=elements):
            *others, end = elements
            return " ".join([*(_group(lark, each, param) for each in others), _group(lark, end, param, last=last)])
        case tags.Or(elements=elements):
            return f"({' | '.join(_tags(lark, each, param, last=last) for each in elements)})"
        case tags.Tag():
            return lark.tag(_tag(lark, wanted, param, last=last))
        case tags.TriggeredTags():
            made = [_tag(lark, each, param) for each in wanted.tags]
            return lark.triggered(
                wanted.triggers, made, at_least_one=wanted.at_least_one, at_most_one=wanted.stop_after_first
            )
        case tags.SeparatedTags():
            one = lark.rule(" | ".join(lark.tag(_tag(lark, each, param)) for each in wanted.tags))
            some = one if wanted.stop_after_first else f"{one} ({lark.literal(wanted.separator)} {one})*"
            return f"({some})" if wanted.at_least_one else f"({some})?"


def _group(lark: Lark, wanted: tags.TagFormat, param: str, *, last: bool = False) -> str:
    return f"({_tags(lark, wanted, param, last=last)})"


def _tag(lark: Lark, wanted: tags.Tag, param: str, *, last: bool = False) -> Tag:
    if isinstance(wanted.content, tags.AnyText):
        if not wanted.end and not last:
            raise _problem(param, "a tag of any_text needs an end")
        return Tag(begin=wanted.begin, content=None, end=wanted.end)
    content = _group(lark, wanted.content, param, last=last and not wanted.end)
    return Tag(begin=wanted.begin, content=content, end=wanted.end)
