"""/tokenize and /detokenize"""

from __future__ import annotations

from typing import Any

from router.answer.detokenizer import text_of
from router.api.request import Parsed
from router.api.tokens import (
    DetokenizeRequest,
    TokenizeRequest,
    parse_detokenize_request,
    parse_tokenize_request,
)
from router.generation.generation import Generation
from router.media.budget import Hold
from router.problems import Problem
from router.prompter import Prompter


class TokenizeEndpoint:
    """The tokens of a prompt or a conversation, media included: what a completion would begin with."""

    name = "tokenize"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[TokenizeRequest]:
        return parse_tokenize_request(body)

    async def answer(
        self, request: TokenizeRequest, prompter: Prompter, generation: Generation, *, salt: bytes, hold: Hold
    ) -> dict[str, Any]:
        if request.prompt is not None:
            special = request.add_special_tokens is not False
            prompts = {"prompt": request.prompt}
            (routed,) = await prompter.raw(prompts, generation, salt=salt, add_special_tokens=special)
        else:
            routed = await prompter.conversation(request.chat, generation, salt=salt, hold=hold)
        ids = routed.prompt.ids
        name = prompter.model.tokenizer.id_to_token
        return {
            "count": len(ids),
            "max_model_len": prompter.max_model_len,
            "tokens": ids,
            "token_strs": [name(token) for token in ids] if request.return_token_strs else None,
        }

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return problem.body()


class DetokenizeEndpoint:
    """The text of tokens, special ones included."""

    name = "detokenize"

    def parse(self, body: Any, *, max_choices: int) -> Parsed[DetokenizeRequest]:
        return parse_detokenize_request(body)

    async def answer(
        self, request: DetokenizeRequest, prompter: Prompter, generation: Generation, *, salt: bytes, hold: Hold
    ) -> dict[str, Any]:
        model = prompter.model
        if (largest := max(request.tokens, default=0)) >= model.info.vocab_size:
            message = f"tokens: there is no token {largest}; the model has {model.info.vocab_size} tokens"
            raise Problem(400, message, param="tokens")
        return {"prompt": text_of(request.tokens, model.token_bytes)}

    def problem(self, problem: Problem, request_id: str) -> bytes:
        return problem.body()
