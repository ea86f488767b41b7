"""Routers' sessions: their requests get numbers of one range, and each step's events go back to whom they belong.

router A  handle 7 ─┐                 ┌─ 101
router A  handle 8 ─┼── Sessions ─────┼─ 102   the engine
router B  handle 7 ─┘                 └─ 103
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.errors import EPDError, InvalidRequestError, ModelMismatchError, MovedError
from common.pb import common_pb2, embedding_pb2, engine_pb2
from common.pb import language_pb2 as pb
from common.tracing import OFF, Tracing
from language_server.account import RequestAccount


class Session:
    """One router's stream. `events` is read by the stream's writer; None ends it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[pb.SessionEvent | None] = asyncio.Queue()
        self.ours: dict[int, int] = {}  # the router's handle -> ours


@dataclass(frozen=True, kw_only=True, slots=True)
class _Owned:
    """An unfinished request."""

    session: Session
    theirs: int  # the router's handle
    account: RequestAccount


class Sessions:
    """All open sessions.

    Args:
        fingerprint: of the model; a request made for another is refused.
        send: hands a command to the engine.
        complete: adds to a grant what encode servers need: endpoints and boot id.
        tracing: of this process.
    """

    def __init__(
        self,
        *,
        fingerprint: bytes,
        send: Callable[[engine_pb2.EngineCommand], None],
        complete: Callable[[embedding_pb2.Grant], None],
        tracing: Tracing = OFF,
    ) -> None:
        self._fingerprint = fingerprint
        self._send = send
        self._complete = complete
        self._tracing = tracing
        self._handles = itertools.count(1)
        self._owned: dict[int, _Owned] = {}  # by our handle
        self._sessions: set[Session] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.refusing = False  # the server drains

    async def wait_idle(self) -> None:
        """Returns once no request is unfinished."""
        await self._idle.wait()

    def announce(self, load: common_pb2.Load) -> None:
        """Tells every router about the server's load at once."""
        for session in self._sessions:
            session.events.put_nowait(pb.SessionEvent(load=load))

    def open(self) -> Session:
        session = Session()
        self._sessions.add(session)
        return session

    def close(self, session: Session) -> None:
        """The router is gone: what it had asked for is wanted by nobody."""
        self._sessions.discard(session)
        for handle in session.ours.values():
            self._forget(handle).account.abort()
            self._send(engine_pb2.EngineCommand(abort=pb.Abort(handle=handle)))
        session.ours.clear()

    def handle(self, session: Session, command: pb.SessionCommand) -> None:
        """Takes one command of a router.

        Raises:
            InvalidRequestError: the router breaks the protocol; its session has to end.
        """
        match command.WhichOneof("command"):
            case "generate":
                self._generate(session, command.generate)
            case "abort":
                if (ours := session.ours.get(command.abort.handle)) is not None:
                    self._send(engine_pb2.EngineCommand(abort=pb.Abort(handle=ours, reason=command.abort.reason)))
            case "grant_lost":
                lost = command.grant_lost
                if (ours := session.ours.get(lost.handle)) is not None:
                    lost.handle = ours
                    self._send(engine_pb2.EngineCommand(grant_lost=lost))
            case _:
                pass  # of a newer protocol version: what it asks for is optional by that version's rules

    def deliver(self, events: pb.SessionEvent, timelines: Iterable[engine_pb2.Timeline] = ()) -> None:
        """Splits a step's events by session. `timelines`: of requests that ended in it."""
        stages = {timeline.handle: timeline.stages for timeline in timelines}
        split: dict[Session, pb.SessionEvent] = defaultdict(pb.SessionEvent)
        for name in ("admitted", "needs", "received", "prompt_logprobs", "outputs", "finished"):
            for event in getattr(events, name):
                if (owned := self._owned.get(event.handle)) is None:
                    continue
                if name == "finished":
                    self._forget(event.handle).account.finish(event, stages.get(event.handle, ()))
                    del owned.session.ours[owned.theirs]
                elif name == "needs":
                    self._complete(event.grant)
                event.handle = owned.theirs
                getattr(split[owned.session], name).append(event)
        for session, part in split.items():
            part.load.CopyFrom(events.load)
            session.events.put_nowait(part)

    def end(self, error: EPDError) -> None:
        """Ends every request with `error` and every session."""
        for session in self._sessions:
            finished = [
                pb.Finished(handle=theirs, reason=pb.Finished.ERROR, error=error.to_wire()) for theirs in session.ours
            ]
            if finished:
                session.events.put_nowait(pb.SessionEvent(finished=finished))
            session.ours.clear()
            session.events.put_nowait(None)
        for handle in list(self._owned):
            self._forget(handle).account.fail(error)
        self._idle.set()

    def _forget(self, handle: int) -> _Owned:
        owned = self._owned.pop(handle)
        if not self._owned:
            self._idle.set()
        return owned

    def _generate(self, session: Session, generate: pb.Generate) -> None:
        if generate.handle in session.ours:
            raise InvalidRequestError(f"handle {generate.handle} is in use")
        account = RequestAccount(generate, self._tracing)
        try:
            if self.refusing:
                raise MovedError("the language server is shutting down")
            if generate.fingerprint != self._fingerprint:
                raise ModelMismatchError("the request was made for another model than the language server's")
        except EPDError as error:
            finished = pb.Finished(handle=generate.handle, reason=pb.Finished.ERROR, error=error.to_wire())
            session.events.put_nowait(pb.SessionEvent(finished=[finished]))
            account.fail(error)
            return
        ours = next(self._handles)
        session.ours[generate.handle] = ours
        self._owned[ours] = _Owned(session=session, theirs=generate.handle, account=account)
        self._idle.clear()
        generate.handle = ours
        self._send(engine_pb2.EngineCommand(generate=generate))
