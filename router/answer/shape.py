"""What every API shows of a generation, in terms of none of them; and what an API has to know to show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from common.pb import language_pb2
from router.problems import Problem


@dataclass(frozen=True, kw_only=True)
class Head:
    """What an answer is called, and what is needed to show it."""

    request_id: str
    created: int  # seconds since 1970
    model: str  # as the client called it
    fingerprint: str  # of the checkpoint
    token_bytes: Sequence[bytes] = ()  # of the model's tokens, by id: what logprobs are shown with


@dataclass(frozen=True, kw_only=True)
class CallDelta:
    """A piece of a tool call; `id` and `name` come with the first one only."""

    index: int  # among the calls of its choice
    arguments: str  # JSON text, or a piece of it
    id: str | None = None
    name: str | None = None


class Read(NamedTuple):
    """A stretch of output as it was understood: reasoning, then text, then tool calls."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    span: tuple[int, int] = (0, 0)  # where the text stands in the output, in characters: begin and end


NOTHING = Read()


@dataclass(slots=True)  # not frozen: that makes them slower, and there is one a token
class Delta:
    """What has been added to a choice."""

    index: int
    read: Read = NOTHING
    token_ids: Sequence[int] = ()
    logprobs: Sequence[language_pb2.TokenLogprobs | None] = ()  # one a token, if they are wanted; see `Taken`
    prompt_logprobs: Sequence[language_pb2.TokenLogprobs] | None = None  # all, once, before anything else of the choice


@dataclass(frozen=True, kw_only=True)
class End:
    """Of a choice."""

    reason: str  # "stop", "length", "tool_calls"
    stop_reason: str | int | None  # the stop string, or the stop token that the client asked for


@dataclass(frozen=True, kw_only=True)
class Call:
    """A whole tool call."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A choice from its first token to its last."""

    index: int
    reads: Sequence[Read]
    token_ids: Sequence[int]
    logprobs: Sequence[language_pb2.TokenLogprobs | None]
    end: End
    prompt_logprobs: Sequence[language_pb2.TokenLogprobs] = ()  # from the prompt's second token on

    @cached_property
    def text(self) -> str:
        return "".join(read.text for read in self.reads)

    @cached_property
    def reasoning(self) -> str:
        return "".join(read.reasoning for read in self.reads)

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        deltas = [call for read in self.reads for call in read.calls]
        return tuple(_call(list(pieces)) for _, pieces in groupby(deltas, lambda call: call.index))


def _call(pieces: Sequence[CallDelta]) -> Call:
    first = pieces[0]
    return Call(id=first.id or "", name=first.name or "", arguments="".join(piece.arguments for piece in pieces))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens, of all choices together."""

    prompt: int
    output: int
    cached: int = 0  # of the prompt: found in the prefix cache
    visual: int = 0  # of the prompt: rows of images and videos
    reasoning: int = 0  # of the output


class Shape(Protocol):
    """One answer in the shape of one API. Of `whole` and the other methods a request uses one or the other."""

    keep_alive: bytes  # what a stream that is silent for long may say

    def whole(
        self, choices: Sequence[Whole], usage: Usage, timings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """The body of an answer that does not stream."""

    def begin(self, choices: int, usage: Usage | None = None) -> bytes:
        """The first events of a stream; `usage` so far, if the client wants it all the time."""

    def delta(self, delta: Delta, usage: Usage | None = None) -> bytes:
        """Something new; `usage` likewise."""

    def finish(self, index: int, end: End, usage: Usage | None = None) -> bytes:
        """Nothing more comes for this choice."""

    def end(self, usage: Usage, timings: Mapping[str, float] | None = None) -> bytes:
        """The last events."""

    def problem(self, problem: Problem) -> bytes:
        """The last events, of a stream that fails."""
