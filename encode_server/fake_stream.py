"""The fake encode server's end of one `Encode` stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from common.errors import InvalidRequestError
from common.pb import embedding_pb2, encode_pb2
from encode_server.account import StreamAccount
from encode_server.fake_engine import FakeEngine

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[encode_pb2.EncodeCommand, encode_pb2.EncodeEvent]


class Stream:
    """The two directions of an `Encode` stream; several tasks may send."""

    def __init__(self, context: Context, engine: FakeEngine, account: StreamAccount) -> None:
        self._context = context
        self._engine = engine
        self.account = account
        self._writing = asyncio.Lock()

    async def read(self) -> encode_pb2.EncodeCommand | None:
        """The next command; None once the router has half-closed."""
        command: Any = await self._context.read()
        return None if command is grpc.aio.EOF else command  # type: ignore[attr-defined]

    async def grants(self) -> AsyncIterator[embedding_pb2.Grant]:
        """Until the router needs no more."""
        while (command := await self.read()) is not None:
            if command.WhichOneof("command") != "grant":
                raise InvalidRequestError("only grants can follow the media")
            yield command.grant

    async def send(self, event: encode_pb2.EncodeEvent) -> None:
        event.load.CopyFrom(self._engine.load())
        async with self._writing:
            await self._context.write(event)
