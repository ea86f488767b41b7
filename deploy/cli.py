"""`epd`: one command for every role, and for the tools that look at a running system."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import __version__
from common.config import ConfigError, describe, parse
from common.errors import EPDError
from common.logs import setup_logging
from common.tracing import check_tracing
from deploy.programs import FAKES, PROGRAMS, Program, demo_folder
from deploy.tools import TOOLS

log = logging.getLogger(__name__)

_DEMO = "demo"  # as a model: the checkpoint that comes with this package


def overview() -> str:
    roles = "\n".join(f"  {role:<10}{program.summary}" for role, program in PROGRAMS.items())
    tools = "\n".join(f"  {name:<10}{tool.summary}" for name, tool in TOOLS.items())
    return (
        "usage: epd ROLE [option ...]\n"
        "       epd TOOL URL [option ...]\n"
        "       epd --version\n\n"
        "Serving for Qwen3-VL with the vision encoder apart from the language model.\n\n"
        f"roles:\n{roles}\n\n"
        f"tools:\n{tools}\n\n"
        "`epd ROLE --help` and `epd TOOL --help` list options. With --fake, serve, encode and language run without\n"
        "weights; `epd ROLE --fake --help` lists what the fakes understand."
    )


def run(role: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs a role until it ends; returns its exit status.

    Raises:
        ConfigError: wrong options, or the role's extra is not installed, or that for traces, which are wanted.
        OSError, EPDError: it could not start, say because its port is taken.
    """
    program, argv, environ = _select(role, argv, environ)
    config: Any = parse(program.config_class(), role, argv, environ)
    config = _with_demo(config, is_fake=program is FAKES.get(role))
    serve = program.serve_function()
    check_tracing()
    setup_logging(role, config.log_level, config.log_format)
    log.info("epd %s %s: %s", role, __version__, describe(config))
    return asyncio.run(serve(config))


def _with_demo(config: Any, *, is_fake: bool) -> Any:
    """The model "demo" is the demo's checkpoint, unless there is such a folder here; fakes take it by default."""
    model = getattr(config, "model", None)
    if (model is None and is_fake) or (str(model) == _DEMO and not Path(_DEMO).exists()):
        folder = demo_folder() / "model"
        return replace(config, model=folder if is_fake else str(folder))
    return config


def _select(
    role: str, argv: Sequence[str], environ: Mapping[str, str]
) -> tuple[Program, Sequence[str], Mapping[str, str]]:
    """The role's program or its fake. `--fake` decides which options there are, so it is taken out before the rest."""
    variable = f"EPD_{role.upper()}_FAKE"
    if role not in FAKES or ("--fake" not in argv and environ.get(variable, "") not in ("1", "true")):
        return PROGRAMS[role], argv, environ
    rest = {name: text for name, text in environ.items() if name != variable}
    return FAKES[role], [word for word in argv if word != "--fake"], rest


def _end(number: int, _: object) -> None:
    sys.exit(0)  # as when it is told to end later


def main() -> int:
    """The console script; the exit status is 2 for wrong options, 1 when the role failed or the tool found a fault."""
    role, argv = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if role in ("--help", "-h", "help"):
        print(overview())
        return 0
    if role == "--version":
        print(f"epd {__version__}")
        return 0
    if role not in PROGRAMS and role not in TOOLS:
        known = (*PROGRAMS, *TOOLS)
        near = difflib.get_close_matches(role, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        print(f"epd: no role or tool {role!r}; {hint}", file=sys.stderr)
        return 2
    # Threads of OpenMP spin while they wait for each other. Beside another busy process, say an encode server next to
    # a language server, they then wait for threads that have no core: ten times slower decoding. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC has to say reaches us as errors too
    # Until a role takes its signals over, which is after torch is imported: as the first process of a container it
    # would not be ended by SIGTERM at all.
    if role not in TOOLS:
        signal.signal(signal.SIGTERM, _end)
    try:
        return TOOLS[role].run(argv) if role in TOOLS else run(role, argv, os.environ)
    except ConfigError as error:
        print(f"epd {role}: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, EPDError) as error:
        # What went wrong in a sentence; where it did, for those who ask for it.
        log.debug("failed", exc_info=True)
        print(f"epd {role}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
