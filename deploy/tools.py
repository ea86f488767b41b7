"""What `epd` can do besides running a role: look at a system that runs.

A tool has options of its own, from the command line only: it starts nothing, so no file describes it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from common.config import ConfigError


class ToolParser(argparse.ArgumentParser):
    """Args:
    name: of the tool.
    usage: what comes after it.
    """

    def __init__(self, name: str, *, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"epd {name}",
            usage=f"epd {name} {usage}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Found by name when it is run, as roles are."""

    summary: str
    module: str  # has `parser() -> ToolParser` and `run(options) -> int`

    def parser(self) -> ToolParser:
        found: ToolParser = self._module().parser()
        return found

    def run(self, argv: Sequence[str]) -> int:
        """The exit status. Raises ConfigError: wrong options."""
        status: int = self._module().run(self.parser().parse_args(argv))
        return status

    def _module(self) -> Any:
        return importlib.import_module(self.module)


TOOLS = {
    "check": Tool(
        summary="sends an image through every pair of servers behind a router, says what is wrong and where",
        module="deploy.check.command",
    ),
    "top": Tool(
        summary="what routers and servers are doing, live in a terminal",
        module="deploy.top.command",
    ),
}
