"""An option: a field of a configuration dataclass, with what its user has to know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from common.values import KINDS, Kind


def option(
    default: Any = MISSING,
    *,
    help: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    name: str | None = None,
    secret: bool = False,
) -> Any:
    """A field of a configuration.

    Args:
        default: its value when nothing gives one; without it the option is required.
        help: what it is; the default is added.
        metavar: what the value is called in the help.
        choices: the allowed values (a `Literal` type brings its own).
        name: of the option, where it is not the field's.
        secret: the value appears in no log and no repr.
    """
    metadata = {"help": help, "metavar": metavar, "choices": choices, "name": name, "secret": secret}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a configuration as its user sees it."""

    field: str
    key: str  # the flag without its dashes; the key of the file
    is_list: bool
    is_switch: bool
    kind: Kind
    choices: Sequence[str] | None
    default: Any  # MISSING: required
    help: str
    metavar: str
    secret: bool

    @property
    def required(self) -> bool:
        return self.default is MISSING

    def variable(self, role: str) -> str:
        """Its environment variable."""
        return f"EPD_{role}_{self.key}".upper().replace("-", "_")

    def read(self, texts: Sequence[str]) -> Any:
        """Its value, from one text or, for a list, any number. Raises ValueError that does not name the option."""
        if self.is_list:
            return tuple(map(self._read_one, texts))
        if len(texts) != 1:
            raise ValueError("takes one value, not a list")
        return self._read_one(texts[0])

    def _read_one(self, text: str) -> Any:
        if self.choices is not None and text not in self.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(self.choices)}")
        return self.kind.read(text)

    def show(self, value: Any) -> str:
        """A value as a user would write it."""
        if value is None or value == ():
            return "(none)"
        return ",".join(map(self.kind.show, value)) if self.is_list else self.kind.show(value)


def options_of(cls: type[Any]) -> tuple[Option, ...]:
    """The options that a configuration dataclass declares and inherits."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_option(item.name, hints[item.name], item.default, item.metadata) for item in fields(cls))


def _option(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> Option:
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (inner for inner in get_args(hint) if inner is not NoneType)
    is_list = get_origin(hint) is tuple
    if is_list:
        hint, _ = get_args(hint)
    choices = metadata["choices"]
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    annotations = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    (kind,) = [extra for extra in annotations if isinstance(extra, Kind)] or [KINDS[hint]]
    return Option(
        field=name,
        key=metadata["name"] or name.replace("_", "-"),
        is_list=is_list,
        is_switch=hint is bool,
        kind=kind,
        choices=choices,
        default=default,
        help=metadata["help"],
        metavar=metadata["metavar"] or ("{" + ",".join(choices) + "}" if choices else kind.metavar),
        secret=metadata["secret"],
    )
