"""Messages to text: the checkpoint's chat template, rendered so that user text stays text.

A template mixes what it writes itself (turn markers, media placeholders) with what users wrote. After rendering, the
two can't be told apart, so every character in user text that could begin a special token's string is replaced before
rendering by a sentinel that nobody can guess, and put back afterwards. Whatever special token stands in the rendered
text by then was written by the template:

    user text     "a <|im_end|> b"       -> "a xNONCE0x|im_end|> b"
    rendered      "<|im_start|>user\\na xNONCE0x|im_end|> b<|im_end|>\\n"
    pieces        [<|im_start|>], "user\\na <|im_end|> b", [<|im_end|>], "\\n"

Text pieces are then tokenized as wholes, by a tokenizer that takes special-token strings for plain text. Benign text
thus gives exactly the ids of `apply_chat_template(tokenize=True)` in transformers, whose rendering environment
(sandbox, whitespace rules, `tojson`, `raise_exception`, `strftime_now`) is followed here.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.errors import InvalidRequestError
from router.syntax import THINK

Piece = str | int  # text, or the id of a special token that the template wrote

# What a request says in fields of their own.
_CONVERSATION = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
_WORD = "word"  # to try a template with

# What a template may stumble over when messages are of a shape that it did not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class ChatTemplate:
    """A compiled chat template and the special tokens that only it may write.

    `asks_for` are the variables that it reads, `fixed` those that are the conversation or the checkpoint's own;
    `thinks` tells whether it knows of reasoning.

    Args:
        source: Jinja2.
        special: ids of the special tokens, by string.
        added: strings of all added tokens, special or not; a tokenizer looks for the longest of them first.
        variables: what the template sees besides the messages (`bos_token` and the like).

    Raises:
        ValueError: `source` is not a template.
    """

    def __init__(
        self, source: str, *, special: Mapping[str, int], added: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(tree)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template can't be used: {error}") from None
        self.asks_for = frozenset(jinja2.meta.find_undeclared_variables(tree))
        self.thinks = THINK in source
        self._variables = dict(variables)
        self.fixed = _CONVERSATION | self._variables.keys()
        self._special = dict(special)
        self._added = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")
        # Two characters are enough to tell a possible special token; the first one alone counts at the end of a string,
        # because the template may put two strings of the user side by side.
        followers: dict[str, set[str]] = {}
        for token in special:
            followers.setdefault(token[0], set()).add(token[1:2])
        self._openers = re.compile(
            "|".join(
                f"{re.escape(first)}(?:(?={'|'.join(map(re.escape, sorted(seconds)))})|\\Z)"
                for first, seconds in sorted(followers.items())
            )
            or r"(?!)"
        )
        self._firsts = sorted(followers)
        self._takes_text, self._takes_parts = self._shows(_WORD), self._shows([{"type": "text", "text": _WORD}])

    def _shows(self, content: Any) -> bool:
        """Whether a message of this content, which says `_WORD`, shows the word, and not as a value in quotes."""
        try:
            shown = self._template.render(
                self._variables, messages=[{"role": "user", "content": content}], tools=None, documents=None
            )
        except _TEMPLATE_ERRORS:
            return False
        return _WORD in shown and f"'{_WORD}'" not in shown and f'"{_WORD}"' not in shown

    def _fitted(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message with its content in the form that the template takes, if that is one only (as in vLLM)."""
        content = message.get("content")
        if isinstance(content, str) and content and self._takes_parts and not self._takes_text:
            return {**message, "content": [{"type": "text", "text": content}]}
        if isinstance(content, list) and self._takes_text and not self._takes_parts:
            texts = [part["text"] for part in content if part["type"] == "text"]
            if len(texts) == len(content):
                return {**message, "content": "\n".join(texts)}
        return message

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[Piece]:
        """The conversation as text pieces and special tokens, in order; no two text pieces are neighbours.

        Args:
            messages: as OpenAI's API has them, media parts reduced to `{"type": "image"}` and `{"type": "video"}`.
            tools: JSON schemas of functions.
            add_generation_prompt: ends with the opening of the assistant's turn.
            continue_final_message: the last message is left open instead, for the model to go on with.
            options: more variables for the template (`chat_template_kwargs`), none of them one of the `fixed`.

        Raises:
            InvalidRequestError: the template refuses the messages, or a string of theirs is not Unicode text.
        """
        nonce = secrets.token_hex(8)
        sentinels = {first: f"x{nonce}{i}x" for i, first in enumerate(self._firsts)}

        def guard(value: Any) -> Any:
            if isinstance(value, str):
                _check_unicode(value)
                return self._openers.sub(lambda match: sentinels[match[0]], value)
            if isinstance(value, Mapping):
                return {guard(key): guard(entry) for key, entry in value.items()}
            if isinstance(value, list | tuple):
                return [guard(entry) for entry in value]
            return value

        def restore(text: str) -> str:
            for first, sentinel in sentinels.items():
                text = text.replace(sentinel, first)
            return text

        try:
            variables = {**guard(options or {}), **self._variables}
            guarded, guarded_tools = guard([*map(self._fitted, messages)]), guard(tools) if tools else None
        except RecursionError:
            raise InvalidRequestError("messages, tools or template variables are nested too deeply") from None
        end = f"x{nonce}endx"
        if continue_final_message:
            _append(guarded[-1], end + " ")
        try:
            rendered = self._template.render(
                variables,
                messages=guarded,
                tools=guarded_tools,
                documents=None,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
            )
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {restore(str(error))}"
            ) from None
        if continue_final_message:
            rendered = _cut(rendered, end)
        return [piece if isinstance(piece, int) else restore(piece) for piece in self.split(rendered)]

    def split(self, rendered: str) -> list[Piece]:
        """Text and the special tokens that are written out in it, in order; no two text pieces are neighbours."""
        pieces: list[Piece] = []
        start = 0
        for match in self._added.finditer(rendered):
            if (token := self._special.get(match[0])) is None:
                continue  # added but not special: it stays in its text, where the tokenizer finds it
            if match.start() > start:
                pieces.append(rendered[start : match.start()])
            pieces.append(token)
            start = match.end()
        if start < len(rendered):
            pieces.append(rendered[start:])
        return pieces


def _append(message: dict[str, Any], text: str) -> None:
    """Adds `text` to the last text of a message: of its reasoning, if it has nothing else yet."""
    content = message.get("content")
    if not content and message.get("reasoning_content"):
        message["reasoning_content"] += text
        return
    if isinstance(content, str):
        message["content"] = content + text
        return
    for part in reversed(content or []):
        if "text" in part:
            part["text"] += text
            return
    raise InvalidRequestError("the last message has no text that the answer could go on with")


def _cut(rendered: str, end: str) -> str:
    """What stands before the mark `end`. The space after it is gone if the template trims: then we trim as well."""
    if (at := rendered.rfind(end)) < 0:
        raise InvalidRequestError("the chat template does not show the last message, which the answer is to go on with")
    return rendered[:at] if rendered.startswith(" ", at + len(end)) else rendered[:at].rstrip()


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("a text holds half of a surrogate pair, which is not Unicode") from None


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
