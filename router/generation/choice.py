"""What a request wants generated, and one of the n answers on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from common.pb import language_pb2
from common.tracing import NO_SPAN, Span
from router.answer.output import Output, OutputRules
from router.answer.reader import PlainReader, Reader
from router.fleet.servers import LanguageServer
from router.fleet.sessions import LanguageSession
from router.prompt.expansion import Prompt


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be generated."""

    prompt: Prompt
    sampling: language_pb2.SamplingParams  # of choice 0
    rules: OutputRules
    choices: int
    affinity: bytes  # what requests have in common that should meet at one language server, for its prefix cache
    reader: Callable[[], Reader] = PlainReader  # makes what reads a choice


@dataclass(kw_only=True, eq=False)
class Choice:
    """One answer: the `number`-th of the `plan.choices`. `handle` is 0 while it is at no server."""

    index: int  # among all answers of the request
    plan: Plan
    number: int
    output: Output
    # From the second token on, if they are wanted; the choices of a plan share them, the first one asks for them.
    prompt_logprobs: list[language_pb2.TokenLogprobs]
    server: LanguageServer | None = None
    session: LanguageSession | None = None
    handle: int = 0
    span: Span = NO_SPAN  # while it is at a server
    admitted: bool = False  # at any server so far
    missing: set[bytes] = field(default_factory=set)
    deaths: int = 0
    refused_by: list[LanguageServer] = field(default_factory=list)
    homeless_until: float = 0.0  # event loop's time at which looking for a server ends; 0: it is at one
    pause: float = 0.0  # seconds that it last waited before looking again
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    last_token_at: float = 0.0
    cached_tokens: int = 0  # of the prompt

    @property
    def knows_prompt(self) -> bool:
        """Whether what is wanted to be known of the prompt is known."""
        plan = self.plan
        return not plan.sampling.HasField("prompt_logprobs") or len(self.prompt_logprobs) == len(plan.prompt.ids) - 1

    @property
    def settled(self) -> bool:
        return self.admitted and (not self.missing or bool(self.output.ids) or self.finish_reason is not None)
