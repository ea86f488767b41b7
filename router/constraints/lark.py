"""Writes grammars in llguidance's dialect of Lark, with other grammars inside.

Added tokens such as `<tool_call>` are no text to llguidance: neither a string nor a regular expression matches them.
They are written as `<[id]>`. A vocabulary without such a token spells it out, and then the string does match.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import regex_to_lark

TEXT = r"/(.|\n)*/"  # without added tokens


@dataclass(frozen=True, kw_only=True)
class Tag:
    """`begin`, then what the rule `content` matches, then `end`; content None: any text up to `end`."""

    begin: str
    content: str | None
    end: str


class Lark:
    """A grammar on its way. What the methods return are expressions for the rules to come.

    Args:
        marks: ids of the added tokens that are no text to llguidance, by string.
    """

    def __init__(self, marks: Mapping[str, int]) -> None:
        self._marks = marks
        self._split = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
        self._rules: list[str] = []
        self._grammars: list[dict[str, Any]] = []
        self.size = 0  # bytes of them

    def rule(self, body: str, *, lazy: bool = False) -> str:
        """A rule of its own; a `lazy` one ends as early as it can."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def grammar(self, definition: Mapping[str, Any]) -> str:
        """Another grammar, `{"json_schema": ...}` or `{"lark_grammar": ...}`."""
        self.size += len(json.dumps(definition))
        name = f"g{len(self._grammars)}"
        self._grammars.append({"name": name, **definition})
        return f"@{name}"

    def literal(self, text: str) -> str:
        """This text, and the added tokens that are written out in it."""
        parts, start = [], 0
        for match in self._split.finditer(text):
            parts += [_quote(text[start : match.start()]), self.mark(match[0])]
            start = match.end()
        return " ".join(part for part in (*parts, _quote(text[start:])) if part) or '""'

    def mark(self, text: str) -> str:
        """An added token."""
        return f"<[{self._marks[text]}]>"

    def tag(self, tag: Tag, *, behind: str = "") -> str:
        """A tag, or what is left of it `behind` a part of its beginning."""
        begin = self.literal(tag.begin[len(behind) :])
        if tag.content is not None:
            return f"{begin} {tag.content} {self.literal(tag.end)}"
        if not tag.end:
            return f"{begin} {TEXT}"
        return f"{begin} {self._text_up_to(tag.end)}"

    def triggered(
        self, triggers: Sequence[str], tags: Sequence[Tag], *, at_least_one: bool = False, at_most_one: bool = False
    ) -> str:
        """Free text, in which one of the tags has to follow where a trigger is written.

        Args:
            triggers: each tag begins with one of them.
            tags: see there.
            at_least_one: there is a tag.
            at_most_one: nothing follows the first one.
        """
        parts = []
        for trigger in triggers:
            found = self._split.search(trigger)
            seen = trigger[: found.end()] if found is not None else trigger
            rests = [self.tag(tag, behind=seen) for tag in tags if tag.begin.startswith(trigger)]
            parts.append(f"{self._text_up_to(seen)} ({' | '.join(rests)})")
        one = " | ".join(parts)
        if at_most_one:
            return f"({one})" if at_least_one else f"({one} | {TEXT})"
        return f"({one}){'+' if at_least_one else '*'} {TEXT}"

    def source(self, start: str) -> str:
        """The whole grammar, as the language servers take it."""
        lark = "\n".join(["%llguidance {}", f"start: {start}", *self._rules])
        return json.dumps({"grammars": [{"name": "start", "lark_grammar": lark}, *self._grammars]})

    def _text_up_to(self, end: str) -> str:
        """Any text and then `end`, which is not in it."""
        found = self._split.search(end)
        if found is None:
            return self.rule(f"{TEXT} {_quote(end)}", lazy=True)
        # An added token ends a text by itself.
        terminal = f"T{len(self._rules)}"
        self._rules.append(f"{terminal}: {TEXT} {_quote(end[: found.start()])}")
        return f"{terminal} {self.literal(end[found.start() :])}"


def regex_grammar(pattern: str) -> dict[str, Any]:
    """A regular expression as a grammar."""
    return {"lark_grammar": f"start: /{regex_to_lark(pattern, use_ascii='')}/"}


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
