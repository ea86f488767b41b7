"""/v1/responses"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.answer.answer import AnswerOptions
from router.answer.responses import ResponsesShape
from router.answer.shape import Head
from router.api.request import Parsed
from router.api.responses import ResponsesRequest, parse_responses_request
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem


class ResponsesEndpoint:
    """OpenAI's responses, of which none is stored."""

    name = "response"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[ResponsesRequest]:
        return parse_responses_request(body)

    async def plan(
        self, request: ResponsesRequest, dispatcher: Dispatcher, generation: Generation, *, salt: bytes, hold: Hold
    ) -> Sequence[Plan]:
        return [await dispatcher.chat(request.chat, generation, salt=salt, hold=hold)]

    def shape(self, request: ResponsesRequest, head: Head, plans: Sequence[Plan]) -> ResponsesShape:
        (plan,) = plans
        return ResponsesShape(
            head,
            echo=request.echo,
            sampling=plan.sampling,
            summary=request.summary,
            with_logprobs=request.chat.logprobs,
        )

    def options(self, request: ResponsesRequest) -> AnswerOptions:
        return AnswerOptions(timings=request.chat.return_timings)

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return problem.body()
