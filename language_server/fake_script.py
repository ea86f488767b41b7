"""What a fake language server says: by script, or else a sentence about what it was shown.

A script is a JSON list of rules, or a file with one rule a line; the first one that matches is followed:

    {"match": "weather", "answer": "It rains.", "tokens_per_second": 20}
    {"match": "riddle", "answer": "<think>Hm.</think>A river."}
    {"match": "split", "tokens": ["Hel", "lo", 1234], "delay_seconds": 0.5}
    {"match": "again", "answer": "As I said.", "cached_tokens": 128}
    {"match": "crash", "answer": "Once upon", "error": "INTERNAL", "message": "as the script says"}

`match` is looked for in the decoded prompt (special tokens included); without it a rule fits everything. Special tokens
in an answer are those tokens. With `tokens` instead of `answer` a script says where tokens begin and end: each text is
tokenized for itself, a number is a token's id. The first token comes after `delay_seconds`;
`cached_tokens` of the prompt are said to have been in the prefix cache. With `error` (a code of
proto/common.proto) the request fails once the answer or the delay is over; if there is neither, it is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.pb import common_pb2

_CODES = common_pb2.Error.Code.keys()[1:]  # the first one is no error


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule; raises ValueError for values that make no sense."""

    match: str = ""
    answer: str = ""
    tokens: Sequence[str | int] | None = None
    delay_seconds: float = 0.0
    tokens_per_second: float | None = None
    cached_tokens: int = 0
    error: str | None = None
    message: str = "the script says so"

    def __post_init__(self) -> None:
        for name in ("match", "answer", "message"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name!r} is a text")
        if self.tokens is not None:
            if self.answer:
                raise ValueError("'answer' and 'tokens' are two ways to say the same: one of them is enough")
            if not isinstance(self.tokens, list) or not all(_is_token(token) for token in self.tokens):
                raise ValueError(f"'tokens' is a list of texts and token ids, not {self.tokens!r}")
        delay = self.delay_seconds
        if isinstance(delay, bool) or not (isinstance(delay, int | float) and 0 <= delay < math.inf):
            raise ValueError(f"'delay_seconds' is a number of seconds, not {delay!r}")
        rate = self.tokens_per_second
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise ValueError(f"'tokens_per_second' is a positive number, not {rate!r}")
        cached = self.cached_tokens
        if isinstance(cached, bool) or not (isinstance(cached, int) and cached >= 0):
            raise ValueError(f"'cached_tokens' is a number of tokens, not {cached!r}")
        if self.error is not None and self.error not in _CODES:
            raise ValueError(f"'error' is one of {', '.join(_CODES)}, not {self.error!r}")

    @property
    def parts(self) -> Sequence[str | int]:
        """The answer: texts that are tokenized each for itself, and token ids."""
        return self.tokens if self.tokens is not None else [self.answer]

    @property
    def failure(self) -> common_pb2.Error | None:
        if self.error is None:
            return None
        return common_pb2.Error(code=self.error, message=self.message)


@dataclass(frozen=True, kw_only=True)
class Script:
    """Rules in their order; an empty script leaves everything to the default answer."""

    rules: Sequence[Rule] = ()

    @staticmethod
    def load(path: Path) -> Script:
        """Raises ValueError that says which rule is wrong."""
        text = path.read_text()
        try:
            entries = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
        except ValueError as error:
            raise ValueError(f"{path} is neither a JSON list nor JSON lines: {error}") from None
        return Script(rules=tuple(_rule(entry, f"{path}, rule {i}") for i, entry in enumerate(entries, start=1)))

    def find(self, prompt: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.match in prompt), None)


def default_answer(*, images: int, videos: int, rows: int, prompt_tokens: int) -> str:
    """A sentence that depends on nothing but what was shown."""
    seen = [
        f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in ((images, "image"), (videos, "video")) if count
    ]
    if not seen:
        return f"This is a made-up answer to {prompt_tokens} prompt tokens."
    return f"This is a made-up answer. I see {' and '.join(seen)} of {rows} visual tokens."


def _is_token(token: Any) -> bool:
    return isinstance(token, str) or (isinstance(token, int) and not isinstance(token, bool) and token >= 0)


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _rule(entry: Any, where: str) -> Rule:
    known = {field.name for field in fields(Rule)}
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not an object")
    if unknown := entry.keys() - known:
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    try:
        return Rule(**entry)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
