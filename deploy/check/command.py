"""`epd check URL`: its command line."""

from __future__ import annotations

import argparse
import json
from functools import partial

from deploy.check.check import check
from deploy.check.printing import Printer
from deploy.check.router import Router
from deploy.remote import add_key_options, key_headers, router_url, seconds
from deploy.tools import ToolParser

_TIMEOUT_S = 60.0


def parser() -> ToolParser:
    parser = ToolParser(
        "check",
        usage="URL [option ...]",
        description="Sends a text to every language server behind a router, and an image that nobody has seen before "
        "through every pair of an encode and a language server. Prints how long each stage took, and what is wrong.",
        epilog="Exit status: 0 all is well, 1 something is wrong, 2 wrong usage.",
    )
    parser.add_argument("url", metavar="URL", type=router_url, help="of the router: http://127.0.0.1:8000")
    add_key_options(parser)
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=_TIMEOUT_S, help=f"of a request (default: {_TIMEOUT_S:g})"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError: the API key is none."""
    printer = Printer(_nobody if options.json else partial(print, flush=True))
    with Router(options.url, key_headers(options), options.timeout) as router:
        report = check(router, options.url, on_servers=printer.servers, on_trial=printer.trial)
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    printer.verdict(report)
    return 0 if report.ok else 1


def _nobody(line: str) -> None:
    """Hears it."""
