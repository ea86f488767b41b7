"""The output of a response, item by item, and the events that tell of it (OpenAI's "Responses" streaming events)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.http.sse import quote


class Events:
    """Server-sent events, numbered."""

    def __init__(self) -> None:
        self._number = 0

    def make(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        return self.finish(head_of(kind, fields), "")

    def finish(self, head: str, rest: str) -> bytes:
        """An event of the fields in `head`, from `head_of`, and in `rest` (",name:value" in JSON)."""
        number, self._number = self._number, self._number + 1
        return f'{head}{rest},"sequence_number":{number}}}\n\n'.encode()


def head_of(kind: str, fields: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {quote({'type': kind, **fields})[:-1]}"


@dataclass(frozen=True, kw_only=True)
class TextKind:
    """How an item of text is spelled: its own type and that of its one part, where the part stands, its events."""

    item: str
    part: str
    parts: str
    index: str
    part_event: str
    text_event: str
    more: Mapping[str, Any]  # other fields of the part
    more_of_item: Mapping[str, Any]


MESSAGE = TextKind(
    item="message",
    part="output_text",
    parts="content",
    index="content_index",
    part_event="response.content_part",
    text_event="response.output_text",
    more={"annotations": []},
    more_of_item={"role": "assistant"},
)
REASONING = TextKind(
    item="reasoning",
    part="reasoning_text",
    parts="content",
    index="content_index",
    part_event="response.content_part",
    text_event="response.reasoning_text",
    more={},
    more_of_item={"summary": []},
)
SUMMARY = TextKind(
    item="reasoning",
    part="summary_text",
    parts="summary",
    index="summary_index",
    part_event="response.reasoning_summary_part",
    text_event="response.reasoning_summary_text",
    more={},
    more_of_item={},
)


class TextItem:
    """A message or a reasoning, which has one part.

    Args:
        kind: of the two.
        item_id: of the item.
        index: in the output.
        events: of the response.
    """

    def __init__(self, kind: TextKind, item_id: str, index: int, events: Events) -> None:
        self.kind = kind
        self._id = item_id
        self._events = events
        self._item_place = {"output_index": index}
        self._place = {"item_id": item_id, "output_index": index, kind.index: 0}
        self._delta_head = head_of(f"{kind.text_event}.delta", self._place)
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def begin(self) -> bytes:
        kind = self.kind
        item = {**self._item("in_progress"), kind.parts: []}
        return self._events.make("response.output_item.added", {**self._item_place, "item": item}) + self._events.make(
            f"{kind.part_event}.added", {**self._place, "part": self._part("", [])}
        )

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> bytes:
        self._pieces.append(text)
        self._logprobs += logprobs
        rest = f',"delta":{quote(text)}'
        if self.kind is MESSAGE:
            rest += f',"logprobs":{quote(logprobs)}' if logprobs else ',"logprobs":[]'
        return self._events.finish(self._delta_head, rest)

    def finish(self, status: str) -> bytes:
        make, kind = self._events.make, self.kind
        text, logprobs = "".join(self._pieces), {"logprobs": self._logprobs} if self.kind is MESSAGE else {}
        return (
            make(f"{kind.text_event}.done", {**self._place, "text": text, **logprobs})
            + make(f"{kind.part_event}.done", {**self._place, "part": self._part(text, self._logprobs)})
            + make("response.output_item.done", {**self._item_place, "item": self.shown(status)})
        )

    def shown(self, status: str) -> dict[str, Any]:
        return {**self._item(status), self.kind.parts: [self._part("".join(self._pieces), self._logprobs)]}

    def _item(self, status: str) -> dict[str, Any]:
        return {"id": self._id, "type": self.kind.item, "status": status, **self.kind.more_of_item}

    def _part(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        part = {"type": self.kind.part, "text": text, **self.kind.more}
        return {**part, "logprobs": logprobs} if self.kind is MESSAGE else part


class CallItem:
    """A call of a function.

    Args:
        name: of the function.
        call_id: which the result will refer to.
        item_id: of the item.
        index: in the output.
        events: of the response.
    """

    def __init__(self, name: str, call_id: str, item_id: str, index: int, events: Events) -> None:
        self._fields = {"id": item_id, "type": "function_call", "call_id": call_id, "name": name}
        self._events = events
        self._item_place = {"output_index": index}
        self._place = {"item_id": item_id, "output_index": index}
        self._delta_head = head_of("response.function_call_arguments.delta", self._place)
        self._pieces: list[str] = []

    def begin(self) -> bytes:
        item = {**self._fields, "status": "in_progress", "arguments": ""}
        return self._events.make("response.output_item.added", {**self._item_place, "item": item})

    def add(self, arguments: str) -> bytes:
        if not arguments:
            return b""
        self._pieces.append(arguments)
        return self._events.finish(self._delta_head, f',"delta":{quote(arguments)}')

    def finish(self, status: str) -> bytes:
        make, arguments = self._events.make, "".join(self._pieces)
        done = {**self._place, "name": self._fields["name"], "arguments": arguments}
        return make("response.function_call_arguments.done", done) + make(
            "response.output_item.done", {**self._item_place, "item": self.shown(status)}
        )

    def shown(self, status: str) -> dict[str, Any]:
        return {**self._fields, "status": status, "arguments": "".join(self._pieces)}
