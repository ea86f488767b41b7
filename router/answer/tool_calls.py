"""Tool calls out of what a model writes, as they come."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from router.answer.shape import CallDelta, Read
from router.syntax import CALL, CALL_END, open_end

# What a call begins with if it is written in the usual order: from here on its arguments can be passed on as they come.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\<]|\\.){1,256}")\s*,\s*"arguments"\s*:\s*(?=\{)')
_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]<]')
_MARK = re.compile(f"{re.escape(CALL)}|{re.escape(CALL_END)}")
_BRACE = re.compile(r"\s*\}?\s*")


@dataclass(kw_only=True)
class _Found:
    """A `Read` on its way."""

    text: str = ""
    begin: int = 0
    end: int = 0
    calls: list[CallDelta] = field(default_factory=list)


class ToolCallReader:
    """Takes `<tool_call>` blocks out of a text.

    The arguments are passed on as the model writes them, as soon as its name is known. A block that is no call is text.
    White space around calls is not shown. However the output is cut into pieces, the same comes out in total.

    Args:
        most: calls beyond these are dropped; None: there is no limit.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self._most = most
        self._stage = _Stage.TEXT
        self._held = ""  # not clear yet
        self._place = 0  # of it, in the text
        self._seen = 0  # of it, without finding an end
        self._gap = ""  # white space before calls, which is text if text follows
        self._space = ""  # likewise, behind them
        self._said = False
        self._depth = 0
        self._in_string = False
        self._found: list[_Found] = []
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._calls > 0

    def feed(self, text: str) -> list[Read]:
        self._held += text
        while self._held and self._advance():
            pass
        return self._take()

    def finish(self) -> list[Read]:
        """What is still held back, when no more comes."""
        held = self._held
        self._drop(len(held))
        match self._stage:
            case _Stage.TEXT:
                self._say(held, self._place)
            case _Stage.HEAD:
                self._whole_call(held, closed=False)
            case _Stage.ARGUMENTS:
                self._pass_on(held)
            case _Stage.TAIL:
                self._say(_BRACE.sub("", held, count=1), self._place)
        if self._space and not self._calls:
            self._show(self._space, self._place - len(self._space), self._place)
        return self._take()

    def _take(self) -> list[Read]:
        found, self._found = self._found, []
        return [Read(text=each.text, calls=tuple(each.calls), span=(each.begin, each.end)) for each in found]

    def _advance(self) -> bool:
        """Reads on; False if it takes more text to know how."""
        match self._stage:
            case _Stage.TEXT:
                return self._in_text()
            case _Stage.HEAD:
                return self._in_head()
            case _Stage.ARGUMENTS:
                return self._in_arguments()
            case _Stage.TAIL:
                return self._in_tail()

    def _in_text(self) -> bool:
        at = self._held.find(CALL)
        end = at if at >= 0 else len(self._held) - open_end(self._held, CALL)
        self._say(self._held[:end], self._place + end)
        self._drop(end)
        if at < 0:
            return False
        self._enter(_Stage.HEAD, len(CALL))
        return True

    def _in_head(self) -> bool:
        if (head := _HEAD.match(self._held)) is not None and (name := _string(head[1])) is not None:
            self._begin_call(name)
            self._depth, self._in_string = 0, False
            self._enter(_Stage.ARGUMENTS, head.end())
            return True
        # A mark may have begun in what was seen.
        at = self._held.find(CALL_END, max(0, self._seen - len(CALL_END)))
        if at < 0:
            self._seen = len(self._held)
            return False
        body = self._held[:at]
        self._enter(_Stage.TEXT, at + len(CALL_END))
        self._whole_call(body, closed=True)
        return True

    def _in_arguments(self) -> bool:
        """Passes on what belongs to the object that the arguments are."""
        text, at = self._held, 0
        while True:
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                at = len(text)
                break
            at = found.start()
            if found[0] == '"':
                self._in_string = not self._in_string
            elif found[0] == "\\":
                if at + 1 == len(text):
                    break
                at += 1
            elif found[0] == "<":
                if text.startswith(CALL_END, at):  # within the object: it was not written to its end
                    self._pass_on(text[:at])
                    self._enter(_Stage.TEXT, at + len(CALL_END))
                    return True
                if CALL_END.startswith(text[at:]):
                    break
            else:
                self._depth += 1 if found[0] in "{[" else -1
                if self._depth == 0:
                    self._pass_on(text[: at + 1])
                    self._enter(_Stage.TAIL, at + 1)
                    return True
            at += 1
        self._pass_on(text[:at])
        self._drop(at)
        return False

    def _in_tail(self) -> bool:
        """What follows the arguments. Up to the end mark it is of no interest; without one it is text."""
        mark = _MARK.search(self._held, max(0, self._seen - len(CALL_END)))
        if mark is None:
            self._seen = len(self._held)
            return False
        rest = self._held[: mark.start()]
        if mark[0] == CALL:
            self._say(_BRACE.sub("", rest, count=1), self._place + mark.start())
            self._enter(_Stage.HEAD, mark.end())
        else:
            self._enter(_Stage.TEXT, mark.end())
        return True

    def _enter(self, stage: _Stage, used: int) -> None:
        self._drop(used)
        self._stage, self._seen = stage, 0

    def _drop(self, used: int) -> None:
        self._held = self._held[used:]
        self._place += used

    def _say(self, text: str, end: int) -> None:
        """`end`: where the text ends."""
        core = text.strip()
        if not core:
            self._space += text
            return
        start = text.find(core)
        space, gap, end = self._space + text[:start], self._gap, end - (len(text) - start - len(core))
        if self._calls and not self._said:
            gap = space = ""
        self._show(gap + space + core, end - len(core) - len(space), end)
        self._gap, self._space, self._said = "", text[start + len(core) :], True

    def _show(self, text: str, begin: int, end: int) -> None:
        if not self._found or self._found[-1].calls:
            self._found.append(_Found(begin=begin))
        found = self._found[-1]
        found.text, found.end = found.text + text, end

    def _whole_call(self, body: str, *, closed: bool) -> None:
        """A call in another order than the usual one, or none at all."""
        call = _parse_call(body)
        if call is None:
            self._say(CALL + body + (CALL_END if closed else ""), self._place)
            return
        name, arguments = call
        self._begin_call(name)
        self._pass_on(arguments)

    def _begin_call(self, name: str) -> None:
        self._calls += 1
        self._gap, self._space = self._gap + self._space, ""
        if self._wanted:
            call_id = f"call_{secrets.token_hex(12)}"
            self._show_call(CallDelta(index=self._calls - 1, id=call_id, name=name, arguments=""))

    def _pass_on(self, arguments: str) -> None:
        if not arguments or not self._wanted:
            return
        self._show_call(CallDelta(index=self._calls - 1, arguments=arguments))

    def _show_call(self, piece: CallDelta) -> None:
        if not self._found:
            self._found.append(_Found())
        calls = self._found[-1].calls
        if calls and calls[-1].index == piece.index:  # one piece of a call an event: instructor reads no more
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + piece.arguments)
        else:
            calls.append(piece)

    @property
    def _wanted(self) -> bool:
        return self._most is None or self._calls <= self._most


class _Stage(Enum):
    TEXT = auto()
    HEAD = auto()  # behind <tool_call>
    ARGUMENTS = auto()
    TAIL = auto()  # behind the arguments


def _string(literal: str) -> str | None:
    try:
        value = json.loads(literal)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _parse_call(body: str) -> tuple[str, str] | None:
    """Name and arguments; None if it is no call."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):  # an object in a string, as some write it
        return (call["name"], arguments) if _is_object(arguments) else None
    if arguments is None:
        arguments = {}
    return (call["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _is_object(text: str) -> bool:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)
