"""How the tools reach a router: its URL, a key, and what goes wrong on the way in words."""

from __future__ import annotations

import argparse
import math
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from common.config import ConfigError

CONNECT_S = 5.0
_VARIABLE = "EPD_ROUTER_API_KEY"  # where the router itself finds its keys


def router_url(text: str) -> str:
    """Without what follows the base of the paths. Raises ArgumentTypeError if it is no URL of a router."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a router, which looks like http://HOST:8000")
    return text.rstrip("/").removesuffix("/v1")


def add_key_options(parser: argparse.ArgumentParser) -> None:
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"of a router that wants one (default: the first one in {_VARIABLE}); others on this machine can see it",
    )
    keys.add_argument("--api-key-file", metavar="FILE", type=Path, help="file whose first key is used")


def key_headers(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Raises ConfigError: the file can't be read, has no key, or what is given is none."""
    if options.api_key_file is not None:
        key = _first_key(options.api_key_file)
    elif options.api_key is not None:
        key = options.api_key
    else:
        key = next(iter(environ.get(_VARIABLE, "").replace(",", " ").split()), "")
        if not key:
            return {}
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError("the API key is empty or has characters that can't be sent")
    return {"authorization": f"Bearer {key}"}


def _first_key(file: Path) -> str:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file: can't read {file}: {error}") from None
    return next((line for line in lines if line and not line.startswith("#")), "")


def seconds(text: str) -> float:
    """For options. Raises ArgumentTypeError if it is no positive number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def tls() -> ssl.SSLContext:
    """The machine's own certificates. (Proxies of the environment are not used: they know nothing of our networks.)"""
    return ssl.create_default_context()


def explain(error: httpx.RequestError, timeout: float) -> str:
    """Why there is no answer.

    Args:
        error: what httpx says.
        timeout: seconds that an answer could take.
    """
    text = str(error)
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {CONNECT_S:g} s: the machine is down, or a firewall drops what is sent there"
        case httpx.TimeoutException():
            return f"no answer within {timeout:g} s"
        case httpx.ConnectError() if "SSL" in text or "certificate" in text.lower():
            return f"TLS fails ({text}): is it http:// there?"
        case httpx.ConnectError() if "refused" in text or "All connection attempts failed" in text:
            return "connection refused: nothing listens there"
        case httpx.ConnectError() if "Name or service" in text or "resol" in text or "getaddrinfo" in text:
            return f"the name can't be resolved ({text})"
        case httpx.ConnectError():
            return f"no connection: {text}"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return f"the connection broke before the answer was there ({text or type(error).__name__})"
        case _:
            return text or type(error).__name__


def printable(text: str) -> str:
    """As one line, without what a terminal would take for a command: others wrote it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))
