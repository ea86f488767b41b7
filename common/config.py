"""Options of every role: one frozen dataclass, read from the command line, the environment and a TOML file.

    @dataclass(frozen=True, kw_only=True)
    class EncodeConfig(CommonOptions):
        listen: Address = option("127.0.0.1:9001", help="gRPC address")
        encode_cache_bytes: Size = option(1 << 30, help="room for finished embeddings")

    config = parse(EncodeConfig, "encode", sys.argv[2:])

The field `encode_cache_bytes` is `--encode-cache-bytes 8GiB`, `EPD_ENCODE_ENCODE_CACHE_BYTES=8GiB`, and the key
`encode-cache-bytes` (or with underscores) of the file, at its top level or under `[encode]`. The command line wins
over the environment, the environment over the file, the file's table over its top level, and that over the default.

Types: `str`, `int`, `float` (durations are seconds), `bool` (`--x`, `--no-x`), `Path`, `Literal[...]`, `Size`,
`Address`, `tuple[T, ...]` (repeats and takes several values; in the environment separated by spaces or commas), and
`T | None`. What needs more than a type is checked by the dataclass's `__post_init__`, which raises ValueError.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from common.logs import LogFormat, LogLevel
from common.options import Option, option, options_of
from common.values import Address, Size

__all__ = [
    "ROLES",
    "Address",
    "CommonOptions",
    "ConfigError",
    "Size",
    "describe",
    "option",
    "parse",
    "read_table",
    "write_table",
]

ROLES = ("serve", "encode", "language", "router")  # each may have a table in the file


class ConfigError(ValueError):
    """A wrong option; the message names it and where it came from."""


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every role understands."""

    config: Path | None = option(None, help="file with more options", metavar="FILE.toml")
    log_level: LogLevel = option("info", help="least severe level that is logged")
    log_format: LogFormat = option("text", help="lines for eyes or for collectors")
    state_file: Path | None = option(
        None, help="where to write role, pid and addresses, once the ports are bound", metavar="FILE.json"
    )


ConfigT = TypeVar("ConfigT", bound=CommonOptions)


def parse(cls: type[ConfigT], role: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> ConfigT:
    """The configuration that command line, environment and file give together.

    Args:
        cls: declares the role's options.
        role: one of `ROLES`; names the environment variables and the file's table.
        argv: without the program's and the role's name.

    Raises:
        ConfigError: an unknown, malformed or missing option.
        SystemExit: after `--help`.
    """
    options = {known.key: known for known in options_of(cls)}
    from_argv = _read_argv(cls, role, options, argv)
    from_environ = _read_environ(role, options, environ)
    path = from_argv.get("config", from_environ.get("config"))
    from_file = _read_file(role, options, path) if path is not None else {}
    values = from_file | from_environ | from_argv
    for key, known in options.items():
        if known.required and key not in values:
            raise ConfigError(f"--{key} is required (or {known.variable(role)}, or {key!r} in a --config file)")
    try:
        return cls(**{options[key].field: value for key, value in values.items()})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def describe(config: CommonOptions) -> str:
    """What is not as by default, as one line for the log, secrets hidden."""
    parts = []
    for known in options_of(type(config)):
        value = getattr(config, known.field)
        if value != known.default:
            parts.append(f"{known.key}={'(hidden)' if known.secret and value else known.show(value)}")
    return " ".join(parts) or "all options as by default"


def read_table(path: Path, role: str) -> dict[str, Sequence[str]]:
    """A role's table of a file, each option by its key: what a process that starts others hands on to them.

    Raises:
        ConfigError: the file can't be read.
    """
    table = _load(path).get(role, {})
    return {name.replace("_", "-"): _texts(entry) for name, entry in table.items()}


def write_table(path: Path, role: str, table: Mapping[str, Sequence[str]]) -> None:
    """A new file for `--config` that nobody else on the machine can read."""
    path.touch(mode=0o600, exist_ok=False)
    lines = [f"{_quote(key)} = [{', '.join(map(_quote, texts))}]\n" for key, texts in table.items()]
    path.write_text(f"[{role}]\n{''.join(lines)}", encoding="utf-8")


def _read(known: Option, texts: Sequence[str], source: str) -> Any:
    try:
        return known.read(texts)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


# -- command line ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser(cls: type[CommonOptions], role: str, options: Mapping[str, Option]) -> _Parser:
    width = min(110, shutil.get_terminal_size().columns)
    parser = _Parser(
        prog=f"epd {role}",
        description=(cls.__doc__ or "").strip().partition("\n\n")[0],
        epilog=f"Every option is also an environment variable ({options['log-level'].variable(role)} for --log-level) "
        f"and a key of the file given by --config, at its top level or under [{role}]. The command line wins over the "
        "environment, the environment over the file. Sizes: 512MiB, 8GiB. Durations are seconds.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=width),
        usage=f"epd {role} [option ...]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    common = {item.name for item in fields(CommonOptions)}
    groups = {False: parser.add_argument_group("this role"), True: parser.add_argument_group("every role")}
    for key, known in options.items():
        note = " (required)" if known.required else ""
        if not known.required and known.default not in (None, ()) and not known.secret:
            note = f" (default: {known.show(known.default)})"
        text = (known.help + note).replace("%", "%%")
        add = groups[known.field in common].add_argument
        # Texts only: what they mean is decided in one place for all three sources.
        if known.is_switch:
            add(f"--{key}", dest=key, help=text, action=argparse.BooleanOptionalAction)
        elif known.is_list:
            add(f"--{key}", dest=key, help=text, metavar=known.metavar, nargs="+", action="extend")
        else:
            add(f"--{key}", dest=key, help=text, metavar=known.metavar)
    return parser


def _read_argv(
    cls: type[CommonOptions], role: str, options: Mapping[str, Option], argv: Sequence[str]
) -> dict[str, Any]:
    given, unknown = _parser(cls, role, options).parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise ConfigError(f"unexpected argument {flag!r}")
        raise ConfigError(f"unknown option {flag}{_nearest(flag, (f'--{key}' for key in options))}")
    values: dict[str, Any] = {}
    for key, value in vars(given).items():
        known = options[key]
        if known.is_switch:
            values[key] = value
        else:
            values[key] = _read(known, value if known.is_list else [value], f"--{key}")
    return values


# -- environment -------------------------------------------------------------------------------------------------------


def _read_environ(role: str, options: Mapping[str, Option], environ: Mapping[str, str]) -> dict[str, Any]:
    by_variable = {known.variable(role): known for known in options.values()}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not text:
            continue  # how compose files say "not given"
        if not variable.startswith(f"EPD_{role.upper()}_"):
            _check_role(variable)
            continue
        known = by_variable.get(variable)
        if known is None:
            raise ConfigError(f"unknown environment variable {variable}{_nearest(variable, by_variable)}")
        texts = [part for part in re.split(r"[\s,]+", text) if part] if known.is_list else [text]
        values[known.key] = _read(known, texts, f"environment variable {variable}")
    return values


def _check_role(variable: str) -> None:
    """A variable of ours that no role would ever read is a slip of the pen."""
    prefixes = tuple(f"EPD_{role.upper()}_" for role in ROLES)
    if variable.startswith("EPD_") and not variable.startswith((*prefixes, "EPD_LIFELINE_")):
        raise ConfigError(f"environment variable {variable} is of no role: EPD_<ROLE>_<OPTION> with {', '.join(ROLES)}")


# -- file --------------------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None


def _read_file(role: str, options: Mapping[str, Option], path: Path) -> dict[str, Any]:
    """The keys at the top level, then the role's table over them; other roles' tables are theirs to check."""
    content = _load(path)
    tables = {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    for name in tables:
        if name not in ROLES:
            raise ConfigError(f"{path}: unknown table [{name}]{_nearest(name, ROLES)}")
    values: dict[str, Any] = {}
    for entries in ({name: entry for name, entry in content.items() if name not in tables}, tables.get(role, {})):
        for name, entry in entries.items():
            key = name.replace("_", "-")
            if key not in options or key == "config":
                raise ConfigError(f"{path}: unknown key {name!r}{_nearest(key, options)}")
            values[key] = _read(options[key], _texts(entry), f"{path}: {name}")
    return values


def _quote(text: str) -> str:
    """As a string of TOML, which are those of JSON but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(entry: object) -> list[str]:
    """TOML's own types as the texts that the command line would give."""
    if isinstance(entry, list):
        return [text for part in entry for text in _texts(part)]
    return ["true" if entry is True else "false" if entry is False else str(entry)]
