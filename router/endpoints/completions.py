"""/v1/completions"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.answer.answer import AnswerOptions
from router.answer.completions import CompletionOptions, CompletionShape, EchoedPrompt
from router.answer.detokenizer import text_of
from router.answer.shape import Head
from router.api.completions import CompletionRequest, parse_completion_request
from router.api.request import Parsed
from router.dispatcher import Dispatcher
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem


class CompletionEndpoint:
    """OpenAI's completions: prompts as they are."""

    name = "completion"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[CompletionRequest]:
        return parse_completion_request(body, max_choices=max_choices)

    async def plan(
        self, request: CompletionRequest, dispatcher: Dispatcher, generation: Generation, *, salt: bytes, hold: Hold
    ) -> Sequence[Plan]:
        return await dispatcher.completions(request, generation, salt=salt)

    def shape(self, request: CompletionRequest, head: Head, plans: Sequence[Plan]) -> CompletionShape:
        options = request.stream_options
        prompts = [
            EchoedPrompt(text=_text(prompt, head) if request.echo else "", ids=plan.prompt.ids)
            for prompt, plan in zip(request.prompts.values(), plans, strict=True)
        ]
        return CompletionShape(
            head,
            CompletionOptions(
                with_usage=options is not None and options.include_usage,
                with_token_ids=request.return_token_ids,
                echo=request.echo,
                logprobs=request.logprobs,
                prompt_logprobs=request.prompt_logprobs is not None,
                tokens_as_ids=request.return_tokens_as_token_ids,
            ),
            [prompt for prompt in prompts for _ in range(request.n)],
        )

    def options(self, request: CompletionRequest) -> AnswerOptions:
        options = request.stream_options
        return AnswerOptions(
            timings=request.return_timings,
            token_ids=request.return_token_ids,
            running_usage=options is not None and options.include_usage and options.continuous_usage_stats,
        )

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return problem.body()


def _text(prompt: str | Sequence[int], head: Head) -> str:
    return prompt if isinstance(prompt, str) else text_of(prompt, head.token_bytes)
