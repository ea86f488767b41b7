"""/v1/chat/completions"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.answer.answer import AnswerOptions
from router.answer.chat import ChatShape
from router.answer.shape import Head
from router.api.chat import ChatRequest, parse_chat_request
from router.api.request import Parsed
from router.api.tools import NamedTool
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem


class ChatEndpoint:
    """OpenAI's chat completions."""

    name = "chat completion"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[ChatRequest]:
        return parse_chat_request(body, max_choices=max_choices)

    async def plan(
        self, request: ChatRequest, dispatcher: Dispatcher, generation: Generation, *, salt: bytes, hold: Hold
    ) -> Sequence[Plan]:
        return [await dispatcher.chat(request, generation, salt=salt, hold=hold)]

    def shape(self, request: ChatRequest, head: Head, plans: Sequence[Plan]) -> ChatShape:
        options = request.stream_options
        (plan,) = plans
        return ChatShape(
            head,
            with_usage=options is not None and options.include_usage,
            with_token_ids=request.return_token_ids,
            prompt_ids=plan.prompt.ids,
            with_logprobs=request.logprobs,
            with_prompt_logprobs=request.prompt_logprobs is not None,
            tokens_as_ids=request.return_tokens_as_token_ids,
            named_tool=isinstance(request.tool_choice, NamedTool),
        )

    def options(self, request: ChatRequest) -> AnswerOptions:
        options = request.stream_options
        return AnswerOptions(
            timings=request.return_timings,
            token_ids=request.return_token_ids,
            running_usage=options is not None and options.include_usage and options.continuous_usage_stats,
        )

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return problem.body()
