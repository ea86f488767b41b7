"""How the values of options are written: sizes, addresses, numbers, switches."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from common.metrics import split_address

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}ib": 1 << 10 * power for power, prefix in enumerate("kmgt", start=1)}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)}


def parse_size(text: str) -> int:
    """Bytes of "512MiB", "8GiB", "1.5GB" or "1048576". Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)(\.\d+)?\s*([a-zA-Z]*)", text.strip())
    if match is None or match[3].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size (say 512MiB, 8GiB or a number of bytes)")
    unit = _UNITS[match[3].lower()]
    return int(match[1]) * unit + int(float(match[2] or 0) * unit)


def format_size(count: int) -> str:
    """The inverse of `parse_size`, in the largest binary unit that divides `count`."""
    for power, prefix in reversed(list(enumerate("KMGT", start=1))):
        if count and count % (1 << 10 * power) == 0:
            return f"{count >> 10 * power}{prefix}iB"
    return str(count)


def parse_address(text: str) -> str:
    """`text` if it is "HOST:PORT", ":PORT" or "[V6]:PORT"; ValueError if not."""
    host, _ = split_address(text)
    try:
        host.encode("idna")  # as whoever looks it up will
    except UnicodeError:
        raise ValueError(f"{text!r} has no host's name: its parts between dots have 1 to 63 characters") from None
    return text


def _parse_bool(text: str) -> bool:
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


@dataclass(frozen=True)
class Kind:
    """How values of a type are read (ValueError says what is wrong), shown, and called in the help."""

    read: Callable[[str], Any]
    show: Callable[[Any], str]
    metavar: str


Size = Annotated[int, Kind(parse_size, format_size, "SIZE")]
Address = Annotated[str, Kind(parse_address, str, "HOST:PORT")]

KINDS: dict[type, Kind] = {
    str: Kind(str, str, "TEXT"),
    int: Kind(_parse_int, str, "N"),
    float: Kind(_parse_float, "{:g}".format, "X"),
    bool: Kind(_parse_bool, lambda value: "true" if value else "false", "true|false"),
    Path: Kind(lambda text: Path(text).expanduser(), str, "PATH"),
}
