"""One process of a router that has several: `python -m router.worker`, which the supervisor starts."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from pathlib import Path

from common.config import ConfigError, parse
from common.errors import EPDError
from common.logs import setup_logging
from router.app import serve_on
from router.config import RouterConfig

log = logging.getLogger(__name__)


def main() -> int:
    """The exit status is 2 for wrong options, 1 when it failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", help="file with all options of the router")
    parser.add_argument("--listener", type=int, help="file descriptor of the socket")
    parser.add_argument("--shared", type=Path, help="folder that all workers have in common")
    arguments = parser.parse_args()
    try:
        config = parse(RouterConfig, "router", ["--config", arguments.config], {})
        setup_logging("router", config.log_level, config.log_format)
        with socket.socket(fileno=arguments.listener) as listener:
            return asyncio.run(serve_on(listener, config, shared=arguments.shared))
    except ConfigError as error:
        print(f"epd router: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, EPDError) as error:
        log.debug("failed", exc_info=True)
        print(f"epd router: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
