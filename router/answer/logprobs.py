"""Logprobs in the three forms in which clients know them.

A token may be a part of a character. Its name is made of bytes then, written "\\xf0\\x9f" as OpenAI does. `bytes` are
always its own, so those of all tokens together are the text.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from common.pb import language_pb2

_LEAST = -9999.0  # JSON has no infinity; vLLM's number for it


class TokenNames:
    """What a token is called.

    Args:
        table: bytes by token id.
        as_ids: "token_id:5" instead of text.
    """

    def __init__(self, table: Sequence[bytes], *, as_ids: bool = False) -> None:
        self._table = table
        self._as_ids = as_ids

    def bytes_of(self, token: int) -> bytes:
        return self._table[token] if token < len(self._table) else b""

    def name(self, token: int) -> str:
        """Text; of parts of characters their bytes."""
        return f"token_id:{token}" if self._as_ids else self.bytes_of(token).decode(errors="backslashreplace")

    def legacy_name(self, token: int) -> str:
        """Likewise, as completions spell it: a name that is not text alone begins with "bytes:"."""
        if self._as_ids:
            return f"token_id:{token}"
        try:
            return self.bytes_of(token).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes_of(token))


def chat_logprobs(
    tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs | None], names: TokenNames
) -> list[dict[str, Any]]:
    """The `content` of a chat completion's logprobs: of the tokens that are part of the text."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"token": names.name(token), "logprob": max(logprob, _LEAST), "bytes": [*names.bytes_of(token)]}

    return [
        {**entry(token, known.logprob), "top_logprobs": list(map(entry, known.top_ids, known.top_logprobs))}
        for token, known in zip(tokens, logprobs, strict=True)
        if known is not None
    ]


class PlacedLogprobs:
    """Finds the logprobs of a part of the output: that of a message, which reasoning and calls of tools stand around.

    Args:
        names: of tokens.
    """

    def __init__(self, names: TokenNames) -> None:
        self._names = names
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._length = 0  # characters
        self._given = 0  # up to here
        self._waiting: deque[tuple[int, int, dict[str, Any]]] = deque()  # begin, end, entry

    def add(self, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs | None]) -> None:
        """More of the output; see `Taken`."""
        shown = [token for token, known in zip(tokens, logprobs, strict=True) if known is not None]
        for token, entry in zip(shown, chat_logprobs(tokens, logprobs, self._names), strict=True):
            begin = self._length
            self._length += len(self._decode(self._names.bytes_of(token)))
            self._waiting.append((begin, self._length, entry))

    def of(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Those of the tokens from one character to another, in OpenAI's form. What stands before is forgotten."""
        entries, self._given = [], end
        while self._waiting and self._waiting[0][0] < end:
            token_begin, token_end, entry = self._waiting.popleft()
            if token_end > begin or token_begin >= begin:
                entries.append(entry)
        return entries

    def rest(self) -> list[dict[str, Any]]:
        """Those that have no character of their own behind what was asked for: half a character, with which it ends."""
        return [entry for _, end, entry in self._waiting if end == self._given]


def prompt_logprobs(
    tokens: Sequence[int], logprobs: Iterable[language_pb2.TokenLogprobs], names: TokenNames
) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: one entry a token, by token id; the first token has none.

    Args:
        tokens: of the prompt.
        logprobs: from its second token on.
        names: of tokens.
    """

    def entry(token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {"logprob": max(logprob, _LEAST), "rank": rank, "decoded_token": names.name(token)}

    shown: list[dict[str, Any] | None] = [None]
    for token, known in zip(tokens[1:], logprobs, strict=True):
        entries = {str(token): entry(token, known.logprob, known.rank)}
        for rank, (likely, logprob) in enumerate(zip(known.top_ids, known.top_logprobs, strict=True), 1):
            entries.setdefault(str(likely), entry(likely, logprob, rank))
        shown.append(entries)
    return shown


class LegacyRow(NamedTuple):
    """One token; what the prompt begins with has no logprob."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int  # in characters, where it begins in the text


class LegacyLogprobs:
    """The logprobs of completions, which say where in the text each token begins.

    A part of a character begins where the character does.

    Args:
        names: of tokens.
        count: of likeliest tokens to show; the token itself is always among them.
    """

    def __init__(self, names: TokenNames, count: int) -> None:
        self._names = names
        self._count = count
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._offset = 0

    def prompt(
        self, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs], length: int
    ) -> list[LegacyRow]:
        """Of a prompt that the text begins with.

        Args:
            tokens: its.
            logprobs: from its second token on.
            length: characters that it has in the text.
        """
        rows = [self._row(token, known) for token, known in zip(tokens, [None, *logprobs], strict=True)]
        self._decode(b"", final=True)
        self._offset = length
        return rows

    def output(self, tokens: Sequence[int], logprobs: Sequence[language_pb2.TokenLogprobs | None]) -> list[LegacyRow]:
        """Of the tokens that are part of the text."""
        known = zip(tokens, logprobs, strict=True)
        return [self._row(token, logprob) for token, logprob in known if logprob is not None]

    def _row(self, token: int, known: language_pb2.TokenLogprobs | None) -> LegacyRow:
        name, offset = self._names.legacy_name(token), self._offset
        self._offset += len(self._decode(self._names.bytes_of(token)))
        if known is None:
            return LegacyRow(name, None, None, offset)
        top = {name: max(known.logprob, _LEAST)}
        for likely, logprob in zip(known.top_ids[: self._count], known.top_logprobs, strict=False):
            top.setdefault(self._names.legacy_name(likely), max(logprob, _LEAST))
        return LegacyRow(name, top[name], top, offset)


def columns(rows: Sequence[LegacyRow]) -> dict[str, Any]:
    """As completions show them."""
    return {
        "tokens": [row.token for row in rows],
        "token_logprobs": [row.logprob for row in rows],
        "top_logprobs": [row.top for row in rows],
        "text_offset": [row.offset for row in rows],
    }
