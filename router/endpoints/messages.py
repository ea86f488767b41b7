"""/v1/messages and /v1/messages/count_tokens"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.answer.answer import AnswerOptions
from router.answer.anthropic import MessageShape, error_body
from router.answer.shape import Head
from router.api.anthropic import CountRequest, MessagesRequest, parse_count_request, parse_messages_request
from router.api.request import Parsed
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem
from router.prompter import Prompter


class MessagesEndpoint:
    """Anthropic's messages."""

    name = "message"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[MessagesRequest]:
        return parse_messages_request(body)

    async def plan(
        self, request: MessagesRequest, dispatcher: Dispatcher, generation: Generation, *, salt: bytes, hold: Hold
    ) -> Sequence[Plan]:
        plan = await dispatcher.chat(request.chat, generation, salt=salt, hold=hold)
        plan.sampling.max_tokens = min(plan.sampling.max_tokens, request.max_tokens)
        return [plan]

    def shape(self, request: MessagesRequest, head: Head, plans: Sequence[Plan]) -> MessageShape:
        (plan,) = plans
        return MessageShape(
            head,
            prompt_tokens=len(plan.prompt.ids),
            fills_context=plan.sampling.max_tokens < request.max_tokens,
        )

    def options(self, request: MessagesRequest) -> AnswerOptions:
        return AnswerOptions(timings=request.chat.return_timings)

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return error_body(problem, request_id)


class CountTokensEndpoint:
    """How long the prompt of such a message would be, images included."""

    name = "token count"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[CountRequest]:
        return parse_count_request(body)

    async def answer(
        self, request: CountRequest, prompter: Prompter, generation: Generation, *, salt: bytes, hold: Hold
    ) -> dict[str, Any]:
        routed = await prompter.conversation(request.chat, generation, salt=salt, hold=hold)
        return {"input_tokens": len(routed.prompt.ids)}

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return error_body(problem, request_id)
