"""`epd top URL ...`: its command line, and how often it looks."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from rich.console import Console
from rich.live import Live

from common.config import ConfigError
from common.values import parse_address
from deploy.remote import CONNECT_S, add_key_options, key_headers, router_url, seconds, tls
from deploy.tools import ToolParser
from deploy.top.drawing import draw, plain
from deploy.top.places import Places, places_of, router_place
from deploy.top.watch import Watch

_INTERVAL_S = 2.0
_TIMEOUT_S = 5.0


def parser() -> ToolParser:
    parser = ToolParser(
        "top",
        usage="[URL ...] [option ...]",
        description="What routers and servers are doing: rates, queues, caches, latencies, losses, from their metrics. "
        "It goes on until Ctrl-C; with --once, or where the output is no terminal, it writes one view and ends.",
        epilog="Exit status: 0; 1 if nothing answered the one view; 2 wrong usage.",
    )
    parser.add_argument("urls", metavar="URL", nargs="*", type=router_url, help="of a router: http://127.0.0.1:8000")
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        nargs="+",
        action="extend",
        default=[],
        type=_address,
        help="where encode and language servers have their metrics (their --metrics-listen); a name "
        "stands for all its addresses, which are looked up anew each time",
    )
    parser.add_argument(
        "--state-file",
        metavar="FILE.json",
        action="append",
        default=[],
        type=Path,
        help="that a role or `epd serve` has written: everything that is in it is shown",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=seconds,
        default=_INTERVAL_S,
        help=f"between two looks (default: {_INTERVAL_S:g})",
    )
    parser.add_argument("--once", action="store_true", help="one view as text, with the rates of one interval")
    add_key_options(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError: there is nothing to look at, or the API key is none."""
    known = [*map(router_place, options.urls), *(place for file in options.state_file for place in places_of(file))]
    places = Places(known, options.metrics, timeout=_TIMEOUT_S)
    if not places:
        raise ConfigError("what to look at? The URL of a router, --metrics or --state-file")
    once = options.once or not sys.stdout.isatty()
    try:
        return asyncio.run(_run(places, key_headers(options), options.interval, once))
    except KeyboardInterrupt:
        return 0  # that is how it ends


async def _run(places: Places, headers: Mapping[str, str], interval: float, once: bool) -> int:
    timeout = httpx.Timeout(_TIMEOUT_S, connect=CONNECT_S)
    async with httpx.AsyncClient(timeout=timeout, verify=tls(), trust_env=False) as client:
        watch = Watch(client, places, headers, _TIMEOUT_S)
        if once:
            await watch.look()
            await asyncio.sleep(interval)
            look = await watch.look()
            sys.stdout.write(plain(look))
            return 0 if any(sight.total is not None for sight in look.sights) else 1
        with Live(console=Console(markup=False, highlight=False), screen=True, auto_refresh=False) as live:
            while True:
                live.update(draw(await watch.look()), refresh=True)
                await asyncio.sleep(interval)


def _address(text: str) -> str:
    try:
        parse_address(text)
        good = not text.startswith(":")
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text
