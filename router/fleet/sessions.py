"""One bidirectional stream to a language server, which carries all of the router's requests there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from common.errors import EPDError, UnavailableError, from_rpc_error
from common.pb import common_pb2, language_pb2, language_pb2_grpc


@dataclass(frozen=True, kw_only=True)
class SessionLost:
    """The session broke under a request; nothing more comes for this handle."""

    handle: int
    error: EPDError


SessionMessage = (
    language_pb2.Admitted
    | language_pb2.Need
    | language_pb2.Received
    | language_pb2.PromptLogprobs
    | language_pb2.StepOutput
    | language_pb2.Finished
    | SessionLost
)

Post = Callable[[SessionMessage], None]


class LanguageSession:
    """Sends requests to one server and sorts what comes back to their owners.

    Args:
        stub: of the server's channel.
        peer: what the server is called in errors.
        handles: gives numbers that no other session of this router uses.
        on_load: is told the server's load with every message of the server.
    """

    def __init__(
        self,
        stub: language_pb2_grpc.LanguageServiceStub,
        peer: str,
        handles: itertools.count[int],
        on_load: Callable[[common_pb2.Load], None],
    ) -> None:
        self._stub = stub
        self._peer = peer
        self._handles = handles
        self._on_load = on_load
        self._posts: dict[int, Post] = {}
        self._commands: asyncio.Queue[language_pb2.SessionCommand] = asyncio.Queue()
        self.broken = False
        self.draining = False

    def __len__(self) -> int:
        """Requests in progress."""
        return len(self._posts)

    def submit(self, generate: language_pb2.Generate, post: Post) -> int:
        """Sends `generate`, whose handle is set and returned.

        What happens to it is told to `post`; last a `Finished` or a `SessionLost`.
        """
        generate.handle = next(self._handles)
        if self.broken:
            post(SessionLost(handle=generate.handle, error=UnavailableError(f"{self._peer} is gone")))
        else:
            self._posts[generate.handle] = post
            self._commands.put_nowait(language_pb2.SessionCommand(generate=generate))
        return generate.handle

    def abort(self, handle: int, reason: str) -> None:
        """Ends a request if it still runs; its owner hears nothing more."""
        if self._posts.pop(handle, None) is not None and not self.broken:
            command = language_pb2.SessionCommand(abort=language_pb2.Abort(handle=handle, reason=reason))
            self._commands.put_nowait(command)

    def grant_lost(self, handle: int, key: bytes, grant_id: bytes) -> None:
        """Nobody will use this grant: the encode server that had it is gone. A new `Need` follows."""
        if handle in self._posts:
            lost = language_pb2.GrantLost(handle=handle, key=key, grant_id=grant_id)
            self._commands.put_nowait(language_pb2.SessionCommand(grant_lost=lost))

    async def run(self) -> None:
        """Holds the session until it breaks or this task is cancelled; all its requests are told."""
        error: EPDError = UnavailableError(f"{self._peer} ended the session")
        call = self._stub.Session()
        writer = asyncio.create_task(self._write(call))
        try:
            async for event in call:
                self._dispatch(event)
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error, self._peer)
        finally:
            self.broken = True
            writer.cancel()
            call.cancel()
            for handle, post in self._posts.items():
                post(SessionLost(handle=handle, error=error))
            self._posts.clear()

    async def _write(
        self, call: grpc.aio.StreamStreamCall[language_pb2.SessionCommand, language_pb2.SessionEvent]
    ) -> None:
        try:
            while True:
                await call.write(await self._commands.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader meets the same end and reports it

    def _dispatch(self, event: language_pb2.SessionEvent) -> None:
        if event.HasField("load"):
            self._on_load(event.load)
        posts = self._posts
        # What still comes for a request that was aborted meanwhile concerns nobody.
        for messages in (event.admitted, event.needs, event.received, event.prompt_logprobs, event.outputs):
            for message in messages:
                if (post := posts.get(message.handle)) is not None:
                    post(message)
        for finished in event.finished:
            if finished.error.code == common_pb2.Error.MOVED:
                self.draining = True
            if (post := posts.pop(finished.handle, None)) is not None:
                post(finished)
