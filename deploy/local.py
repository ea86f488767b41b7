"""`epd serve`: everything on one machine, each server in its own process on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.config import parse, read_table, write_table
from common.lifecycle import Shutdown
from common.options import options_of
from common.rpc import channel
from common.state import ProcessState, write_processes
from deploy.child import Child
from deploy.programs import PROGRAMS
from deploy.serve_config import ServeConfig
from router.config import RouterConfig
from router.http.auth import Keys
from router.listening import listen

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds
_PATIENCE = 10.0  # seconds between two lines about a server that is still starting

# Options of `epd serve` that a role takes under the same name.
PASSED_ON = {
    "encode": ("model", "revision", "dtype", "transport", "encode_cache_bytes"),
    "language": (
        *("model", "revision", "dtype", "max_model_len", "max_num_seqs", "max_step_tokens"),
        *("kv_cache_bytes", "gpu_memory_fraction", "inbox_bytes"),
    ),
    "router": ("host", "port", "workers", "served_model_name", "api_key_file"),
}


class LocalServers:
    """The processes, started on entering the context and stopped, router first, on leaving it.

        async with LocalServers(config, say=print, on_death=shutdown.request) as servers:
            url = await servers.ready()

    Args:
        config: what to start.
        say: gets a line for each step of the start.
        on_death: is told when a process ends that should not have; `failure` says the same afterwards.
    """

    def __init__(self, config: ServeConfig, *, say: Callable[[str], None], on_death: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._on_death = on_death
        self._folder = tempfile.TemporaryDirectory(prefix="epd-")
        self._config_argv = {role: config_argv(config, role, Path(self._folder.name)) for role in PASSED_ON}
        self._lifeline, self._lifeline_end = os.pipe()
        self._servers: list[Child] = []
        self._router: Child | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failure = ""
        self.states: tuple[ProcessState, ...] = ()  # of all processes, this one first; once ready

    async def __aenter__(self) -> LocalServers:
        try:
            self._check_router()
            if self._config.colocated:
                await self._start_colocated()
            else:
                await self._start_servers("encode", self._config.encode_placement())
                await self._start_servers("language", self._config.language_placement())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stop()

    def _check_router(self) -> None:
        """What would end the router, after minutes in which models were loaded, ends here.

        Raises:
            ConfigError, OSError: its options, its keys or its port.
        """
        argv = [*role_argv(self._config, "router"), *self._config_argv["router"]]
        argv += [*("--encode", "127.0.0.1:1"), *("--language", "127.0.0.1:1")]  # whatever they will be
        config = parse(RouterConfig, "router", argv, router_environ(self._config, os.environ))
        Keys(config.api_key, config.api_key_file)
        listen(config.host, config.port).close()

    async def ready(self) -> str:
        """Starts the router and waits until a request with an image would succeed; the base URL of the HTTP API."""
        async with asyncio.TaskGroup() as group:
            for child in self._servers:
                group.create_task(self._until_up(child, _serves))
            bound = await asyncio.gather(*(child.bound() for child in self._servers))
            states = [state for states in bound for state in states]
            argv = [*role_argv(self._config, "router"), *self._config_argv["router"]]
            for role in ("encode", "language"):
                argv += [f"--{role}", *(state.addresses["grpc"] for state in states if state.role == role)]
            environ = router_environ(self._config, os.environ)
            self._router = await self._start("router", ["deploy.cli", "router", *argv], environ)
        await self._until_up(self._router, partial(_is_ready, workers=self._config.workers or 1))
        (state,) = await self._router.bound()
        self.states = (ProcessState(role="serve", pid=os.getpid()), *states, state)
        return _url(state)

    def kill(self) -> None:
        """Ends all processes at once."""
        for child in (*self._servers, *([self._router] if self._router else [])):
            child.kill()

    async def _start_servers(self, role: str, devices: Sequence[str | None]) -> None:
        for number, device in enumerate(devices, start=1):
            name = f"{role} server" + (f" {number}" if len(devices) > 1 else "")
            argv = ["deploy.cli", role, *server_argv(self._config, role, device), *self._config_argv[role]]
            self._servers.append(await self._start(name, argv, os.environ))

    async def _start_colocated(self) -> None:
        (encode_device,), (language_device,) = self._config.encode_placement(), self._config.language_placement()
        argv = ["deploy.colocated", *server_argv(self._config, "encode", encode_device)]
        argv += [*self._config_argv["encode"], "--", *server_argv(self._config, "language", language_device)]
        argv += self._config_argv["language"]
        self._servers.append(await self._start("co-located server", argv, os.environ))

    async def _start(self, name: str, argv: Sequence[str], environ: Mapping[str, str]) -> Child:
        child = await Child.start(name, argv, environ, Path(self._folder.name), self._lifeline)
        self._watches.append(asyncio.create_task(self._watch(child)))
        return child

    async def _watch(self, child: Child) -> None:
        status = await child.process.wait()
        # One that is told to end before its interpreter has begun dies of the signal.
        if not self._stopping or status not in (0, -signal.SIGTERM):
            self.failure = self.failure or child.describe_end()
            self._on_death(self.failure)

    async def _until_up(self, child: Child, is_up: Callable[[ProcessState], Awaitable[bool]]) -> None:
        """Waits as long as it takes, and says so: a large model is minutes in loading."""
        begin = time.monotonic()

        async def wait() -> None:
            missing = list(await child.bound())
            while missing:
                if await is_up(missing[0]):
                    missing.pop(0)
                else:
                    await asyncio.sleep(_POLL)

        waiting = asyncio.create_task(wait())
        try:
            while not (await asyncio.wait((waiting,), timeout=_PATIENCE))[0]:
                self._say(f"{child.name}: still starting, {time.monotonic() - begin:.0f} s")
        finally:
            waiting.cancel()
        await waiting
        self._say(f"{child.name}: up after {time.monotonic() - begin:.1f} s")

    async def _stop(self) -> None:
        """The router first: it ends its requests while the servers still work for them."""
        self._stopping = True
        if self._router is not None:
            await self._router.stop()
        await asyncio.gather(*(child.stop() for child in self._servers))
        await asyncio.gather(*self._watches)
        os.close(self._lifeline)
        os.close(self._lifeline_end)
        self._folder.cleanup()


def server_argv(config: ServeConfig, role: str, device: str | None) -> list[str]:
    """The command line of an encode or language server, on free ports of loopback."""
    argv = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *role_argv(config, role)]
    argv += ["--data-listen", "127.0.0.1:0"] if role == "language" else []
    argv += ["--device", device] if device is not None else []
    argv += ["--fake"] if config.fake else []
    return argv


def role_argv(config: ServeConfig, role: str) -> list[str]:
    """What `epd serve` was told about a role, as the role's own command line."""
    known = {option.field: option for option in options_of(ServeConfig)}
    argv: list[str] = []
    for name in ("log_level", "log_format", *PASSED_ON[role]):
        value = getattr(config, name)
        if value not in (None, ()):
            values = value if known[name].is_list else (value,)
            argv += [f"--{known[name].key}", *(known[name].kind.show(one) for one in values)]
    return argv


def config_argv(config: ServeConfig, role: str, folder: Path) -> list[str]:
    """`--config` with a file of the role's own, written to `folder`; nothing if there is nothing to say in it.

    It holds what the user's file has in the role's table, and the API keys: a command line is for everybody on the
    machine to read, and in the environment a comma would part them.
    """
    table = read_table(config.config, role) if config.config else {}
    if role == "router" and config.api_key:
        table["api-key"] = config.api_key
    if not table:
        return []
    path = folder / f"{role}.toml"
    write_table(path, role, table)
    return ["--config", str(path)]


def router_environ(config: ServeConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Without the keys that those of the command line stand in for."""
    return {name: text for name, text in environ.items() if not (config.api_key and name == "EPD_ROUTER_API_KEY")}


def _url(router: ProcessState) -> str:
    return f"http://{router.addresses['http']}"


async def _serves(server: ProcessState) -> bool:
    """What an encode or language server says of its health."""
    async with channel(server.addresses["grpc"]) as connection:
        try:
            answer = await health_pb2_grpc.HealthStub(connection).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _is_ready(router: ProcessState, *, workers: int) -> bool:
    """Whether all processes of the router say that text and images would succeed.

    Which of them takes a connection is the kernel's choice: so many new ones as good as never leave one out.
    """
    connections = 1 if workers == 1 else 8 * workers
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, timeout=5.0, limits=limits) as client:
        try:
            for _ in range(connections):
                if (await client.get(f"{_url(router)}/ready")).status_code != httpx.codes.OK:
                    return False
        except httpx.TransportError:
            return False
    return True


async def run(config: ServeConfig, *, say: Callable[[str], None], use: Callable[[str], Awaitable[int]]) -> int:
    """Starts everything, calls `use` with the base URL, and stops everything; returns the exit status.

    `use` runs until it returns (its status is the result), until SIGTERM or SIGINT (0), or until one of the
    processes dies (1); in the last two cases it is cancelled.
    """
    with Shutdown() as shutdown:
        servers = LocalServers(config, say=say, on_death=shutdown.request)
        shutdown.at_once = servers.kill

        async def work() -> int:
            url = await servers.ready()
            if config.state_file is not None:
                write_processes(config.state_file, servers.states)
            return await use(url)

        async with servers:
            working, ending = asyncio.create_task(work()), asyncio.create_task(shutdown.wait())
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if servers.failure:
                log.error("%s: stopping the others", servers.failure)
            for task in (working, ending):
                task.cancel()
            await asyncio.wait((working, ending))
    status = 0 if working.cancelled() else working.result()
    if servers.failure:
        log.error("ended because %s", servers.failure)
        return 1
    return status


async def serve(config: ServeConfig) -> int:
    """`epd serve`."""
    if not config.fake:
        for role in ("encode", "language"):
            PROGRAMS[role].check_installed()

    async def forever(url: str) -> int:
        log.info("ready: %s", url)
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never

    return await run(config, say=log.info, use=forever)
