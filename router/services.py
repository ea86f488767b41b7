"""What the HTTP paths share: everything behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from router.config import RouterConfig
from router.dispatcher import Dispatcher
from router.fleet.fleet import Fleet
from router.http.auth import Keys
from router.http.gate import Gate
from router.media.budget import ByteBudget
from router.media.fetch import Fetcher, HostResolver, IPAddress, is_public
from router.media.grids import GridMemory
from router.media.loader import MediaLoader
from router.metrics import RouterMetrics
from router.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Services:
    """See the module."""

    config: RouterConfig
    workers: Workers  # for parsing, hashing, tokenizing
    keys: Keys
    fleet: Fleet
    dispatcher: Dispatcher
    metrics: RouterMetrics
    budget: ByteBudget
    grids: GridMemory
    gate: Gate

    @property
    def model_names(self) -> tuple[str, ...]:
        """Empty as long as nobody knows."""
        if self.config.served_model_name or self.fleet.model is None:
            return self.config.served_model_name
        info = self.fleet.model.info
        return (info.name or info.architecture,)


@contextlib.asynccontextmanager
async def make_services(config: RouterConfig) -> AsyncIterator[Services]:
    """Everything behind the HTTP paths, in touch with the servers until the block ends."""
    metrics = RouterMetrics()
    fleet = Fleet(config)
    workers = Workers("work", os.cpu_count() or 1)
    lookups = Workers("media-dns", config.media_fetches)
    fetcher = Fetcher(
        timeout=config.media_timeout_seconds,
        connect_timeout=config.media_connect_seconds,
        concurrency=config.media_fetches,
        resolver=HostResolver(lookups),
        allowed=_any_address if config.allow_private_media else is_public,
    )
    loader = MediaLoader(config=config, fetcher=fetcher, fleet=fleet, workers=workers)
    services = Services(
        config=config,
        workers=workers,
        keys=Keys(config.api_key, config.api_key_file),
        fleet=fleet,
        dispatcher=Dispatcher(fleet=fleet, loader=loader, workers=workers),
        metrics=metrics,
        budget=ByteBudget(config.media_budget_bytes, metrics.media_bytes),
        grids=GridMemory(),
        gate=Gate(config.max_requests, metrics),
    )
    try:
        async with asyncio.TaskGroup() as tasks:  # should the watch fail, so does the process
            watching = tasks.create_task(fleet.run())
            yield services
            watching.cancel()
    finally:
        await fetcher.close()
        lookups.close()
        workers.close()


def _any_address(address: IPAddress) -> bool:
    return True
