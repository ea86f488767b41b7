"""One request on its way through the servers, from its first media item to its last token.

Everything that happens to it (what language and encode servers say, the client that leaves) arrives in one
mailbox and is handled in order by one task, so there is nothing to lock and nothing to forget.

    learn(items)   sizes of the media        opens an encode stream for every item not seen before
    start(plans)   Generate, once a choice   Admitted -> Need, Received ... -> tokens -> Finished
    settled()      admitted, and every item is where it has to be: from here on the answer is a 200
    step()         tokens
    close()        whatever still runs is ended
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common.errors import (
    CancelledError,
    EPDError,
    InternalError,
    ModelMismatchError,
    MovedError,
    OverloadedError,
    UnavailableError,
    from_wire,
)
from common.pb import common_pb2, language_pb2
from common.tracing import code_of
from router.answer.output import Output
from router.config import RouterConfig
from router.fleet.encodes import EncodeMessage, GrantFailed, ItemEncode, ItemFailed, ItemKnown, MediaItem
from router.fleet.fleet import Fleet
from router.fleet.pins import Pins
from router.fleet.sessions import SessionLost, SessionMessage
from router.generation.choice import Choice, Plan
from router.generation.mailbox import Mailbox
from router.media.grids import GridMemory
from router.metrics import RouterMetrics
from router.problems import ItemError
from router.stages import Stages

T = TypeVar("T")

_MAX_DEATHS = 2  # of language servers under one request: it may be what kills them
_RETRY_S = 0.05  # until a choice without a server looks for one again; twice as long every time
_MAX_RETRY_S = 1.0


@dataclass(frozen=True)
class ClientLeft:
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Silence:
    """It is time to show the client that the connection lives."""


@dataclass(frozen=True)
class Retry:
    """A choice that had no server may find one now."""

    choice: int


Message = SessionMessage | EncodeMessage | ClientLeft | Silence | Retry


class Generation:
    """See the module. Made when a request arrives; `close` must be called whatever happens.

    Args:
        fleet: the servers.
        config: of the router.
        metrics: of the router.
        grids: sizes of media seen before.
        request_id: for the servers' logs.
        salt: of the tenant.
        deadline: in the event loop's time; the servers end the request then. Here, it is whoever waits that ends it.
        stages: of the request.
        pins: servers that it has to go through.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        config: RouterConfig,
        metrics: RouterMetrics,
        grids: GridMemory,
        request_id: str,
        salt: bytes,
        deadline: float,
        stages: Stages,
        pins: Pins,
    ) -> None:
        self._fleet = fleet
        self._config = config
        self._metrics = metrics
        self._grids = grids
        self._request_id = request_id
        self._salt = salt
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._deadline = deadline
        self.stages = stages
        self._pins = pins
        self.mailbox: Mailbox[Message] = Mailbox()
        self._encodes: dict[bytes, ItemEncode] = {}
        self._by_handle: dict[int, Choice] = {}
        self.choices: list[Choice] = []
        self.plans: tuple[Plan, ...] = ()
        self.timings: dict[str, float] = {}  # milliseconds by stage, as clients are shown them
        self.first_token_s: float | None = None

    # -- the life of a request ---------------------------------------------------------------------------------------

    async def learn(self, items: Sequence[MediaItem]) -> None:
        """Finds the size of every item; see `metadata`. Raises ItemError for one that can't be used."""
        for item in items:
            if item.key in self._encodes:
                continue
            known = self._grids.get(item.key)
            encode = self._encodes[item.key] = ItemEncode(
                item,
                fleet=self._fleet,
                post=self.mailbox.post,
                metrics=self._metrics,
                request_id=self._request_id,
                span=self.stages.span,
                attempts=self._config.encode_attempts,
                answer_timeout=self._config.encode_answer_seconds,
                deadline=self._deadline,
                metadata=known,
                pin=self._pins.encode,
            )
            if known is None:
                encode.open()
        if self._sizes_are_known():
            return
        with self.stages.stage("size"):
            while not self._sizes_are_known():
                await self.step()

    def _sizes_are_known(self) -> bool:
        return all(encode.metadata is not None for encode in self._encodes.values())

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled if the client leaves."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self.mailbox.post(Silence()))
        try:
            while not task.done():
                await self.step()
            return task.result()
        finally:
            task.cancel()

    def metadata(self, key: bytes) -> common_pb2.MediaMetadata:
        """Of an item that has been learnt."""
        metadata = self._encodes[key].metadata
        assert metadata is not None
        return metadata

    def start(self, plans: Sequence[Plan]) -> None:
        """Submits every choice of every plan.

        Raises:
            UnavailableError: no language server is ready.
        """
        assert self._fleet.model is not None
        self.plans = tuple(plans)
        table = self._fleet.model.token_bytes
        for plan in plans:
            prompt_logprobs: list[language_pb2.TokenLogprobs] = []
            self.choices += [
                Choice(
                    index=len(self.choices) + number,
                    plan=plan,
                    number=number,
                    output=Output(plan.rules, table),
                    prompt_logprobs=prompt_logprobs,
                )
                for number in range(plan.choices)
            ]
        for choice in self.choices:
            self._submit(choice)

    async def settled(self) -> None:
        """Waits until the request is admitted and has all its media: what may fail because of the client has not."""
        while not all(choice.settled for choice in self.choices):
            await self.step()
        self._metrics.accepted.inc()

    async def step(self) -> bool:
        """Waits for something to happen and handles it; True if all that happened is that nothing did (`Silence`).

        Raises:
            ItemError: a media item can't be used or can't be had.
            EPDError: the request has failed, in the way that the error says.
        """
        quiet = True
        for message in await self.mailbox.take():
            if isinstance(message, Silence):
                continue
            quiet = False
            if isinstance(message, language_pb2.StepOutput):  # the most frequent by far
                self._on_output(message)
            else:
                self._handle(message)
        return quiet

    @property
    def finished(self) -> bool:
        return all(choice.finish_reason is not None for choice in self.choices)

    async def wait_times(self) -> None:
        """Waits for encode servers to say how long they took, which they do after the language server has the item."""
        for encode in self._encodes.values():
            await encode.wait_closed()

    @property
    def cached_tokens(self) -> int:
        """Of each prompt once, found in the prefix cache of the server where it was computed first."""
        return sum(choice.cached_tokens for choice in self.choices if choice.number == 0)

    def collect_times(self) -> dict[str, float]:
        """Milliseconds by stage, as far as they are known."""
        for encode in self._encodes.values():
            for stage, milliseconds in encode.times.items():
                self.timings[stage] = max(milliseconds, self.timings.get(stage, 0.0))
        return self.timings

    async def close(self, reason: str) -> None:
        """Ends what still runs, on all servers."""
        self.collect_times()
        for handle, choice in self._by_handle.items():
            assert choice.session is not None
            choice.session.abort(handle, reason)
            choice.span.end()
        self._by_handle.clear()
        encodes, self._encodes = self._encodes, {}
        for encode in encodes.values():
            await encode.cancel()

    # -- what can happen ---------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        match message:
            case language_pb2.Admitted() | language_pb2.Need() | language_pb2.Received() | language_pb2.Finished():
                # A choice that has left this server ignores what it still says.
                if (choice := self._by_handle.get(message.handle)) is not None:
                    self._on_session(choice, message)
            case language_pb2.PromptLogprobs():
                if (choice := self._by_handle.get(message.handle)) is not None:
                    # another server begins again from the start
                    known = 1 + len(choice.prompt_logprobs) - message.start
                    choice.prompt_logprobs += message.tokens[known:]
            case SessionLost(handle=handle, error=error):
                if (choice := self._by_handle.get(handle)) is not None:
                    self._on_death(choice, error)
            case ItemKnown(key=key):
                self._grids.put(key, self.metadata(key))
            case ItemFailed(key=key, error=error):
                self._grids.forget(key)
                raise ItemError(error, self._encodes[key].item.param)
            case GrantFailed(key=key, handle=handle, grant_id=grant_id):
                choice = self._by_handle.get(handle)
                if choice is not None and choice.session is not None and key in choice.missing:
                    choice.session.grant_lost(handle, key, grant_id)
            case Retry(choice=index):
                if self.choices[index].finish_reason is None:
                    self._submit(self.choices[index])
            case ClientLeft():
                raise CancelledError("the client left")

    def _on_session(
        self,
        choice: Choice,
        message: language_pb2.Admitted | language_pb2.Need | language_pb2.Received | language_pb2.Finished,
    ) -> None:
        match message:
            case language_pb2.Admitted():
                if not choice.admitted:
                    choice.cached_tokens = message.cached_tokens
                choice.admitted = True
                choice.span.event("admitted")
                choice.homeless_until = choice.pause = 0.0
                choice.missing = set(message.needed_keys)
                for key in choice.missing:
                    self._encode(key).open()
                self._release()
            case language_pb2.Need():
                choice.missing.add(message.key)
                self._encode(message.key).grant(message.handle, message.grant)
            case language_pb2.Received():
                choice.missing.discard(message.key)
                choice.span.event("item received")
                self._release()
            case language_pb2.Finished():
                self._on_finished(choice, message)

    def _on_output(self, message: language_pb2.StepOutput) -> None:
        choice, ids = self._by_handle.get(message.handle), message.token_ids
        if choice is None or not ids:
            return
        now = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now - self._began
            self._metrics.first_token.observe(self.first_token_s)
            choice.span.event("first token")
        if choice.last_token_at:
            self._metrics.inter_token.observe((now - choice.last_token_at) / len(ids))
        elif message.HasField("cached_tokens"):
            choice.cached_tokens = message.cached_tokens
        choice.last_token_at = now
        choice.output.feed(ids, message.logprobs)
        if choice.output.stop_string is not None:
            assert choice.session is not None
            choice.session.abort(message.handle, "stop string")
            self._finish(choice, "stop", choice.output.stop_string)

    def _on_finished(self, choice: Choice, message: language_pb2.Finished) -> None:
        for stage in message.times:
            self.timings[stage.stage] = max(stage.milliseconds, self.timings.get(stage.stage, 0.0))
        match message.reason:
            case language_pb2.Finished.STOP:
                token = message.stop_token_id if message.HasField("stop_token_id") else None
                self._finish(choice, "stop", self._shown_stop(choice, token))
            case language_pb2.Finished.LENGTH:
                self._finish(choice, "length", None)
            case language_pb2.Finished.ABORTED:
                raise UnavailableError("the language server aborted the request")
            case _:
                self._on_error(choice, from_wire(message.error))

    def _on_error(self, choice: Choice, error: EPDError) -> None:
        """The server ended the request with an error; some of those another server would not have."""
        assert choice.server is not None
        choice.span.fail(code_of(error))
        match error:
            case CancelledError():
                raise UnavailableError("the language server aborted the request") from error
            case _ if self._pins.language is not None:
                raise error
            case MovedError():
                self._move(choice, "moved")
            case OverloadedError() | ModelMismatchError():
                choice.refused_by.append(choice.server)
                self._leave(choice)
                if choice.admitted or self._fleet.choose_language(choice.plan.affinity, choice.refused_by) is not None:
                    self._metrics.retries.labels("language").inc()
                    self._submit(choice)
                else:
                    raise error
            case UnavailableError():
                self._on_death(choice, error)
            case _:
                raise error

    def _on_death(self, choice: Choice, error: EPDError) -> None:
        choice.span.fail(code_of(error))
        if self._pins.language is not None:
            raise error
        choice.deaths += 1
        if choice.deaths == _MAX_DEATHS:
            raise UnavailableError("two language servers failed while they worked on this request") from error
        self._move(choice, "death")

    # -- choices and servers -----------------------------------------------------------------------------------------

    def _submit(self, choice: Choice) -> None:
        """Gives the choice to a server: with the tokens it has, if it comes from another one."""
        server = self._fleet.choose_language(choice.plan.affinity, choice.refused_by, self._pins.language)
        if server is None:
            self._wait_for_server(choice)
            return
        assert server.session is not None
        assert self._fleet.model is not None
        choice.span = self.stages.span.child(
            "generate", {"server.address": server.address, "epd.choice": choice.index}, calls=True
        )
        context = choice.span.headers
        generate = language_pb2.Generate(
            request_id=self._request_id,
            fingerprint=self._fleet.model.info.fingerprint,
            salt=self._salt,
            prompt_ids=choice.plan.prompt.ids,
            spans=choice.plan.prompt.spans,
            resumed_output_ids=choice.output.ids,
            sampling=choice.plan.sampling,
            deadline_seconds=max(0.001, self._deadline - self._loop.time()),
            traceparent=context.get("traceparent"),
            tracestate=context.get("tracestate"),
        )
        generate.sampling.choice = choice.number
        if choice.number:  # what is known of a prompt is the same for all its choices
            generate.sampling.ClearField("prompt_logprobs")
        choice.server, choice.session = server, server.session
        choice.missing = set()
        choice.handle = server.session.submit(generate, self.mailbox.post)
        self._by_handle[choice.handle] = choice

    def _wait_for_server(self, choice: Choice) -> None:
        """A new request is refused at once, one that has begun waits for a server to come back."""
        if not choice.admitted and not choice.deaths:
            pin = self._pins.language
            raise UnavailableError("no language server is ready" if pin is None else self._fleet.obstacle(pin))
        now = self._loop.time()
        choice.homeless_until = choice.homeless_until or now + self._config.failover_seconds
        if now >= choice.homeless_until:
            raise UnavailableError("the language server is gone and no other takes the request on")
        choice.refused_by.clear()  # they may have room by then
        choice.pause = min(max(_RETRY_S, 2 * choice.pause), _MAX_RETRY_S)
        self._loop.call_at(min(now + choice.pause, choice.homeless_until), self.mailbox.post, Retry(choice.index))

    def _leave(self, choice: Choice) -> None:
        for encode in self._encodes.values():
            encode.forget(choice.handle)
        self._by_handle.pop(choice.handle, None)
        choice.span.end()
        choice.handle, choice.missing = 0, set()

    def _move(self, choice: Choice, cause: str) -> None:
        """Goes on at another server, unless the answer is complete and only the last word on it was lost."""
        self._leave(choice)
        ids = choice.output.ids
        if ids and ids[-1] in choice.plan.rules.stop_ids and len(ids) > choice.plan.rules.min_tokens:
            self._finish(choice, "stop", self._shown_stop(choice, ids[-1]))
        elif len(ids) >= choice.plan.sampling.max_tokens:
            self._finish(choice, "length", None)
        else:
            self._metrics.migrations.labels(cause).inc()
            self._submit(choice)

    def _finish(self, choice: Choice, reason: str, stop_reason: str | int | None) -> None:
        self._leave(choice)
        if choice.number == 0 and not choice.knows_prompt:
            raise InternalError("the language server did not send the logprobs of the prompt")
        choice.output.finish()
        choice.finish_reason, choice.stop_reason = reason, stop_reason
        self._release()

    def _shown_stop(self, choice: Choice, token: int | None) -> int | None:
        """A stop token is named to the client if it asked for it; the model's own end of text is not."""
        return token if token in choice.plan.sampling.stop_token_ids else None

    # -- media -------------------------------------------------------------------------------------------------------

    def _encode(self, key: bytes) -> ItemEncode:
        if key not in self._encodes:
            raise InternalError("the language server asks for an item that the request does not have")
        return self._encodes[key]

    def _release(self) -> None:
        """Closes the encode streams that no choice needs; an item is opened again if one needs it again."""
        if not all(choice.admitted for choice in self.choices):
            return
        missing = set().union(*(choice.missing for choice in self.choices))
        for key, encode in self._encodes.items():
            if key not in missing:
                encode.close()
