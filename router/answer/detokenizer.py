"""Token ids to text, one at a time, without ever showing half a character.

Byte-level BPE writes every byte as one printable character, so a token is a known run of bytes: a table and an
incremental UTF-8 decoder do what `Tokenizer.decode` does, at a small part of its cost. Bytes that are not UTF-8 become
U+FFFD as they do there; a character whose bytes are still on their way is withheld.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Mapping, Sequence


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are the characters from U+0100 on
    (the alphabet of GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_bytes(vocabulary: Mapping[str, int]) -> list[bytes]:
    """The bytes of each token id; ids that the vocabulary lacks have none."""
    alphabet = byte_alphabet()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        try:
            table[index] = bytes(alphabet[character] for character in token)
        except KeyError:  # an added token with characters of its own
            table[index] = token.encode()
    return table


def text_of(ids: Iterable[int], table: Sequence[bytes]) -> str:
    """What tokens say all together, special ones included; an id that the table lacks says nothing."""
    return b"".join(table[token] for token in ids if token < len(table)).decode(errors="replace")


class Detokenizer:
    """The text of one choice as its tokens arrive.

    Args:
        table: bytes by token id.
        hidden: ids that are not shown (the special tokens, unless the client wants them).
    """

    def __init__(self, table: Sequence[bytes], hidden: Collection[int]) -> None:
        self._table = table
        self._hidden = hidden
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode, self._state = decoder.decode, decoder.getstate
        self.halfway = False  # a character has begun and is not complete

    def feed(self, token: int) -> str:
        """The characters that this token completes."""
        if token in self._hidden or token >= len(self._table):
            return ""
        content = self._table[token]
        text = self._decode(content)
        if content:  # asking the decoder takes long, and ASCII, which most tokens end with, is always complete
            self.halfway = content[-1] > 0x7F and bool(self._state()[0])
        return text


class StopStrings:
    """Watches for stop strings in text that comes in pieces.

    Text that may be the beginning of a stop string is held back until it is known not to be one: a stop string is never
    shown, and what is shown is never taken back.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        """Args:
        stops: not empty strings.
        include: the stop string itself is shown, but nothing after it.
        """
        self._stops = tuple(stops)
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that may be shown now. Once `matched` is set, all that may be shown has been."""
        assert self.matched is None
        if not self._stops:
            return text
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            # the one that is complete first; of those, the one that began first
            at, stop = min(found, key=lambda match: (match[0] + len(match[1]), match[0]))
            self.matched, self._held = stop, ""
            return text[: at + len(stop)] if self._include else text[:at]
        keep = self._open_match(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is still held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _open_match(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
