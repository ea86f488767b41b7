"""What the HTTP paths share: everything behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.grammars import grammar_threads
from common.logs import RateLimitedLog
from common.tracing import OFF, Tracing
from router.config import RouterConfig
from router.dispatcher import Dispatcher
from router.fleet.fleet import Fleet
from router.http.auth import Keys
from router.http.gate import Gate
from router.http.refusals import Refusals
from router.http.unknown import UnknownFields
from router.media.aliases import Aliases
from router.media.budget import ByteBudget
from router.media.fetch import Fetcher, HostResolver, IPAddress, is_public
from router.media.files import LocalFiles
from router.media.grids import GridMemory
from router.media.loader import MediaLoader
from router.metrics import RouterMetrics
from router.prompter import Prompter
from router.threads import Threads

log = logging.getLogger(__name__)

METRICS = "metrics"  # folder in the shared one
_GRAMMAR_THREADS = 2  # checking the largest takes a second


@dataclass(frozen=True, kw_only=True)
class Services:
    """See the module."""

    config: RouterConfig
    threads: Threads  # for parsing, hashing, tokenizing
    keys: Keys
    fleet: Fleet
    prompter: Prompter
    dispatcher: Dispatcher
    metrics: RouterMetrics
    budget: ByteBudget
    grids: GridMemory
    gate: Gate
    unknown_fields: UnknownFields
    warn: RateLimitedLog  # of what many requests may meet
    refusals: Refusals
    tracing: Tracing

    @property
    def model_names(self) -> tuple[str, ...]:
        """Empty as long as nobody knows."""
        if self.config.served_model_name or self.fleet.model is None:
            return self.config.served_model_name
        info = self.fleet.model.info
        return (info.name or info.architecture,)


@contextlib.asynccontextmanager
async def make_services(
    config: RouterConfig, *, shared: Path | None = None, tracing: Tracing = OFF
) -> AsyncIterator[Services]:
    """Everything behind the HTTP paths, in touch with the servers until the block ends.

    Args:
        config: of the router.
        shared: a folder that all processes of this router have in common; None: there is one process.
        tracing: of this process.
    """
    metrics = RouterMetrics(shared / METRICS if shared is not None else None)
    fleet = Fleet(config)
    threads = Threads(ThreadPoolExecutor(os.cpu_count() or 1, "work"))
    waiters = Threads(ThreadPoolExecutor(config.media_fetches, "media"))  # for name servers and disks
    grammars = Threads(grammar_threads("grammars", _GRAMMAR_THREADS))
    files = LocalFiles(config.allowed_local_media_path, timeout=config.media_timeout_seconds, threads=waiters)
    aliases = Aliases(metrics.aliases, shared / "aliases.sqlite" if shared is not None else None)
    fetcher = Fetcher(
        timeout=config.media_timeout_seconds,
        connect_timeout=config.media_connect_seconds,
        stall_timeout=config.media_stall_seconds,
        concurrency=config.media_fetches,
        resolver=HostResolver(waiters),
        allowed=_any_address if config.allow_private_media else is_public,
    )
    warn = RateLimitedLog(log)
    loader = MediaLoader(config=config, fetcher=fetcher, files=files, aliases=aliases, fleet=fleet, threads=threads)
    prompter = Prompter(fleet=fleet, loader=loader, threads=threads, reasoning=config.reasoning == "auto")
    services = Services(
        config=config,
        threads=threads,
        keys=Keys(config.api_key, config.api_key_file),
        fleet=fleet,
        prompter=prompter,
        dispatcher=Dispatcher(prompter=prompter, grammars=grammars),
        metrics=metrics,
        budget=ByteBudget(config.media_budget_bytes, metrics.media_bytes),
        grids=GridMemory(metrics.grids),
        gate=Gate(config.max_requests, metrics),
        unknown_fields=UnknownFields(strict=config.strict_fields, metrics=metrics),
        warn=warn,
        refusals=Refusals(metrics, warn),
        tracing=tracing,
    )
    try:
        async with asyncio.TaskGroup() as tasks:  # should the watch fail, so does the process
            watching = tasks.create_task(fleet.run())
            yield services
            watching.cancel()
    finally:
        aliases.close()
        await fetcher.close()
        waiters.close()
        grammars.close()
        threads.close()


def _any_address(address: IPAddress) -> bool:
    return True
