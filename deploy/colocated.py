"""An encode and a language server in one process, which hand embeddings over in memory: `epd serve --colocated`.

    python -m deploy.colocated ENCODE-OPTION ... -- LANGUAGE-OPTION ...

The router, its protocol and both servers are the same as ever; only the data plane has no wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from common.config import ConfigError, describe, parse
from common.errors import EPDError
from common.lifecycle import FAILED_STOP_SECONDS, Shutdown, give_up
from common.logs import setup_logging
from common.state import ProcessState, write_processes
from common.tracing import tracing_from_environment
from common.transport.local import LocalHub
from encode_server.config import EncodeConfig
from encode_server.service import EncodeServer
from language_server.config import LanguageConfig
from language_server.service import LanguageServer

log = logging.getLogger(__name__)


async def serve(encode: EncodeConfig, language: LanguageConfig) -> int:
    """Runs both until SIGTERM, or until one of them can't go on; the process's exit status."""
    loop = asyncio.get_running_loop()
    hub = LocalHub()
    encode_failure: asyncio.Future[str] = loop.create_future()
    language_failure: asyncio.Future[str] = loop.create_future()
    tracing = {role: tracing_from_environment(f"epd-{role}") for role in ("encode", "language")}
    with Shutdown() as shutdown:
        for failure in (encode_failure, language_failure):
            failure.add_done_callback(lambda reason: shutdown.request(reason.result()))
        language_server = LanguageServer(language, on_failure=language_failure, hub=hub, tracing=tracing["language"])
        await language_server.start()
        encode_server = EncodeServer(encode, on_failure=encode_failure, hub=hub, tracing=tracing["encode"])
        try:
            await encode_server.start()
        except BaseException:
            await language_server.stop(0.0)
            raise
        if language.state_file is not None:
            write_processes(
                language.state_file,
                [
                    ProcessState(role="encode", pid=os.getpid(), addresses=encode_server.addresses),
                    ProcessState(role="language", pid=os.getpid(), addresses=language_server.addresses),
                ],
            )
        await shutdown.wait()
        failed = encode_failure.done() or language_failure.done()
        # Together: each finishes what the other still waits for.
        stopping = asyncio.gather(
            encode_server.stop(0.0 if failed else encode.drain_seconds),
            language_server.stop(0.0 if failed else language.drain_seconds),
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping, FAILED_STOP_SECONDS if failed else None)
    for one in tracing.values():
        await asyncio.to_thread(one.close)
    if failed:
        give_up(shutdown.reason)
    return 0


def main(argv: Sequence[str]) -> int:
    middle = argv.index("--")
    encode = parse(EncodeConfig, "encode", argv[:middle])
    language = parse(LanguageConfig, "language", argv[middle + 1 :])
    setup_logging("colocated", language.log_level, language.log_format)
    log.info("encode: %s", describe(encode))
    log.info("language: %s", describe(language))
    return asyncio.run(serve(encode, language))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, EPDError, OSError, ValueError) as error:
        log.debug("failed", exc_info=True)
        print(f"epd serve --colocated: {error}", file=sys.stderr)
        sys.exit(1)
