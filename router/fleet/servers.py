"""What the router knows of each server: whether it can be used, what it holds, how busy it is.

    connecting --health SERVING, model matches--> ready <--> not ready (drains, or says so)
        ^                                           |
        +----- connection lost, hung, or stuck -----+

Each server is looked at again and again by a task of its own (`run`). A lost one gets a fresh channel every time, so
that it is found within a moment of its return, however long it was away.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common import rpc
from common.errors import EPDError, ModelMismatchError, UnavailableError, from_rpc_error
from common.logs import RateLimitedLog
from common.pb import common_pb2, encode_pb2_grpc, language_pb2_grpc
from router.fleet.sessions import LanguageSession

log = logging.getLogger(__name__)

_MISSES = 3  # so many looks in a row without an answer: the server hangs


class Server:
    """One encode or language server at one address.

    Args:
        role: "encode" or "language"; for logs and errors.
        address: "host:port".
        interval: seconds between two looks.
        timeout: seconds that the server has to answer one; health and load are answered off the work path.
        check: is given what the server says of its model; raises `ModelMismatchError` if it can't be used.
    """

    def __init__(
        self,
        role: str,
        address: str,
        *,
        interval: float,
        timeout: float,
        check: Callable[[Server], Awaitable[None]],
    ) -> None:
        self.role = role
        self.address = address
        self.info: common_pb2.ModelInfo | None = None  # None: not connected
        self.load = common_pb2.Load()
        self.warn = RateLimitedLog(log)
        self.version = ""  # of its software; "": never reached
        self.trouble = "connecting"  # what the last look found; "" if all was well
        self._shown = True  # the log says so
        self._calls: set[grpc.aio.Call] = set()  # in progress, other than looks
        self.removed = False  # no longer among the addresses: takes nothing new
        self._interval = interval
        self._timeout = timeout
        self._check = check
        self._looked_for = asyncio.Event()  # the next look should be now
        self.channel: grpc.aio.Channel | None = None

    def __str__(self) -> str:
        return f"{self.role} server {self.address}"

    @property
    def ready(self) -> bool:
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """Why it takes nothing new; "" if it does."""
        if self.trouble:
            return self.trouble
        if self.removed:
            return f"{self} is no longer among the addresses"
        return f"{self} is shutting down" if self.load.draining else ""

    def on_load(self, load: common_pb2.Load) -> None:
        self.load.CopyFrom(load)

    def suspect(self) -> None:
        """A call could not reach it: it is not ready until it has been looked at, which happens at once."""
        if not self.trouble:
            self._report(f"{self} could not be reached")
            self._looked_for.set()

    @contextlib.contextmanager
    def in_use(self, call: grpc.aio.Call) -> Iterator[None]:
        """While `call` is open the channel is kept, even if the server takes no new work; when the server is given up,
        `call` is cancelled."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    async def run(self) -> None:
        """Watches the server until cancelled, or until it is removed and nothing of it is in use."""
        while not (self.removed and not self._busy()):
            try:
                async with rpc.channel(self.address) as channel:
                    self.channel = channel
                    await self._watch(channel)
            except (EPDError, grpc.aio.AioRpcError) as error:
                failure = error if isinstance(error, EPDError) else from_rpc_error(error, str(self))
                self._report(failure.message, refused=isinstance(failure, ModelMismatchError))
            except Exception as error:  # noqa: BLE001  what one server says must not end the router
                self.warn.error("unexpected", "%s: unexpected error", self, trace=error)
                self._report(f"{self} can't be understood")
            finally:
                self.channel = None
                self.info = None
                for call in self._calls:
                    call.cancel()  # closing the channel does not reach all of them
                await self._disconnected()
            await asyncio.sleep(self._interval)

    # -- what the roles do differently -------------------------------------------------------------------------------

    def _busy(self) -> bool:
        return bool(self._calls)

    async def _model_info(self, channel: grpc.aio.Channel) -> common_pb2.ModelInfo:
        raise NotImplementedError

    async def _server_info(self, channel: grpc.aio.Channel) -> common_pb2.ServerInfo:
        raise NotImplementedError

    async def _connected(self, channel: grpc.aio.Channel) -> None:
        """The server is healthy and holds the right model."""

    async def _disconnected(self) -> None:
        """The channel is closed."""

    async def _pause(self) -> None:
        """Between two looks."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked_for.wait(), self._interval)
        self._looked_for.clear()

    # -- looking -----------------------------------------------------------------------------------------------------

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """Looks until the server is lost, which is the error that it raises."""
        health = health_pb2_grpc.HealthStub(channel)
        misses = 0
        boot_id = b""
        while not (self.removed and not self._busy()):
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
                server_info = await self._server_info(channel)
                misses = 0
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    misses += 1
                    if misses < _MISSES:
                        continue
                    raise UnavailableError(f"{self} does not answer") from None
                # A server that shuts down takes no new calls but goes on with the open ones: those decide.
                if self._busy():
                    self._report(f"{self} takes no new calls")
                    await self._pause()
                    continue
                raise
            if boot_id and server_info.boot_id != boot_id:
                raise UnavailableError(f"{self} was restarted")
            boot_id = server_info.boot_id
            self.version = server_info.version
            self.on_load(server_info.load)
            serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            if serving and self.info is None:
                info = await self._model_info(channel)
                if info.protocol != rpc.PROTOCOL_VERSION:
                    raise ModelMismatchError(
                        f"{self} speaks protocol {info.protocol}, the router speaks {rpc.PROTOCOL_VERSION}"
                    )
                self.info = info
                await self._check(self)
                await self._connected(channel)
            if serving and not server_info.load.draining:
                self._report("")
            elif server_info.load.draining:
                self._report(f"{self} is shutting down")
            elif self.info is None:
                self._report(f"{self} is starting")
            else:
                # Health counts progress too: a server that says so of itself, and does not drain, is stuck.
                raise UnavailableError(f"{self} says that it is not serving")
            await self._pause()

    def _report(self, trouble: str, *, refused: bool = False) -> None:
        if trouble != self.trouble:
            if not trouble:
                if self._shown:
                    log.info("%s is ready", self)
            elif refused:
                self.warn.error("refused", "%s: it is not used", trouble)
            elif self.trouble:
                log.info("%s", trouble)  # it has not been ready yet
                self._shown = True
            else:  # any request may find so, and the next look that all is well
                self._shown = self.warn.warning("lost", "%s", trouble)
        self.trouble = trouble


class EncodeServer(Server):
    """See `Server`."""

    async def _model_info(self, channel: grpc.aio.Channel) -> common_pb2.ModelInfo:
        stub = encode_pb2_grpc.EncodeServiceStub(channel)
        info: common_pb2.ModelInfo = await stub.GetModelInfo(common_pb2.GetModelInfoRequest(), timeout=self._timeout)
        return info

    async def _server_info(self, channel: grpc.aio.Channel) -> common_pb2.ServerInfo:
        stub = encode_pb2_grpc.EncodeServiceStub(channel)
        info: common_pb2.ServerInfo = await stub.GetServerInfo(common_pb2.GetServerInfoRequest(), timeout=self._timeout)
        return info


class LanguageServer(Server):
    """See `Server`; while it is connected it also holds the session.

    Args:
        handles: see `LanguageSession`.
    """

    def __init__(
        self,
        role: str,
        address: str,
        *,
        interval: float,
        timeout: float,
        check: Callable[[Server], Awaitable[None]],
        handles: itertools.count[int],
    ) -> None:
        super().__init__(role, address, interval=interval, timeout=timeout, check=check)
        self.session: LanguageSession | None = None
        self._handles = handles
        self._session_task: asyncio.Task[None] | None = None

    @property
    def obstacle(self) -> str:
        if found := super().obstacle:
            return found
        if self.session is None or self.session.broken:
            return f"{self}: the session broke"
        return f"{self} is shutting down" if self.session.draining else ""

    def _busy(self) -> bool:
        return super()._busy() or (self.session is not None and not self.session.broken and len(self.session) > 0)

    async def _model_info(self, channel: grpc.aio.Channel) -> common_pb2.ModelInfo:
        stub = language_pb2_grpc.LanguageServiceStub(channel)
        info: common_pb2.ModelInfo = await stub.GetModelInfo(common_pb2.GetModelInfoRequest(), timeout=self._timeout)
        return info

    async def _server_info(self, channel: grpc.aio.Channel) -> common_pb2.ServerInfo:
        stub = language_pb2_grpc.LanguageServiceStub(channel)
        info: common_pb2.ServerInfo = await stub.GetServerInfo(common_pb2.GetServerInfoRequest(), timeout=self._timeout)
        return info

    async def _connected(self, channel: grpc.aio.Channel) -> None:
        stub = language_pb2_grpc.LanguageServiceStub(channel)
        self.session = LanguageSession(stub, str(self), self._handles, self.on_load)
        self._session_task = asyncio.create_task(self.session.run(), name=f"session {self.address}")

    async def _disconnected(self) -> None:
        if self._session_task is not None:
            self._session_task.cancel()
            await asyncio.wait([self._session_task])
        self._session_task = self.session = None

    async def _pause(self) -> None:
        """Ends early when the session breaks: its requests are waiting for another server."""
        if self._session_task is None:
            await super()._pause()
            return
        await asyncio.wait([self._session_task], timeout=self._interval)
        if self._session_task.done():
            raise UnavailableError(f"{self}: the session broke")
