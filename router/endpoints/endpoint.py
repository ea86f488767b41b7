"""What an exchange needs to know of an API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from router.answer.answer import AnswerOptions
from router.answer.reader import Reader
from router.answer.shape import Head, Shape
from router.api.generation import GenerationRequest
from router.api.request import Parsed
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem

RequestT = TypeVar("RequestT", bound=GenerationRequest)


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

    def reader(self, request: RequestT) -> Callable[[], Reader]:
        """Makes what reads a choice."""

    def options(self, request: RequestT) -> AnswerOptions:
        """What the answer shows besides text."""

    def problem(self, problem: Problem) -> bytes:
        """An error, as the body of an answer."""

    def problem_event(self, problem: Problem) -> bytes:
        """An error after the stream has begun; nothing follows it."""
