"""What an exchange needs to know of an API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from router.answer.answer import AnswerOptions
from router.answer.shape import Head, Shape
from router.api.request import Parsed
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem
from router.prompter import Prompter


class Asked(Protocol):
    """What every request says."""

    @property
    def model(self) -> str | None: ...

    @property
    def stream(self) -> bool: ...


RequestT = TypeVar("RequestT", bound=Asked)


class Endpoint(Protocol[RequestT]):
    """One API. Has no state: one object serves all requests."""

    name: str  # in logs

    def parse(self, body: Any, *, max_choices: int) -> Parsed[RequestT]:
        """Parsed JSON, checked. Raises Problem (400) that names the field."""

    async def plan(
        self, request: RequestT, dispatcher: Dispatcher, generation: Generation, *, salt: bytes, hold: Hold
    ) -> Sequence[Plan]:
        """What is to be generated.

        Args:
            request: from `parse`.
            dispatcher: makes plans.
            generation: of this request, for its media.
            salt: of the tenant.
            hold: on the memory that the request may use.

        Raises:
            EPDError: the request can't be served, or not now.
            ItemError: one of its media is the reason.
        """

    def shape(self, request: RequestT, head: Head, plans: Sequence[Plan]) -> Shape:
        """How the answer looks."""

    def options(self, request: RequestT) -> AnswerOptions:
        """What the answer shows besides text."""

    def problem(self, problem: Problem, request_id: str) -> bytes:
        """An error, as the body of an answer. See `Shape.problem` for one in a stream."""


@runtime_checkable
class PromptEndpoint(Protocol[RequestT]):
    """An API that looks at a prompt and has nothing generated. See `Endpoint` for what they have in common."""

    name: str

    def parse(self, body: Any, *, max_choices: int) -> Parsed[RequestT]:
        """Parsed JSON, checked."""

    async def answer(
        self, request: RequestT, prompter: Prompter, generation: Generation, *, salt: bytes, hold: Hold
    ) -> dict[str, Any]:
        """The body of the answer. Raises as `Endpoint.plan` does."""

    def problem(self, problem: Problem, request_id: str) -> bytes:
        """An error, as the body of an answer."""
