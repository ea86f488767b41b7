"""The body of a completion: a prompt that the chat template does not touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag

from router.api import request as requests
from router.api.fields import ACCEPTED, UNSUPPORTED
from router.api.formats import FormatFields
from router.api.generation import GenerationRequest, LogprobCount, TokenId
from router.api.paths import Paths
from router.api.request import Parsed
from router.problems import Problem

_PATHS = Paths({"messages": "prompt"})  # what is said of a conversation concerns the prompt here
MAX_SEQUENCES = 256  # prompts times n

_Ids = Annotated[list[TokenId], Field(fail_fast=True)]


def _kind(value: Any) -> str:
    """Of a prompt: the first entry of a list tells what the others have to be."""
    if isinstance(value, str):
        return "#text"
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, str):
        return "#texts"
    return "#id lists" if isinstance(first, list) else "#ids"


Prompt = Annotated[
    Annotated[str, Tag("#text")]
    | Annotated[list[str], Field(fail_fast=True), Tag("#texts")]
    | Annotated[_Ids, Tag("#ids")]
    | Annotated[list[_Ids], Field(fail_fast=True), Tag("#id lists")],
    Discriminator(_kind),
]


class CompletionRequest(GenerationRequest, FormatFields):
    """What is honoured of OpenAI's completions, and of what vLLM adds to them."""

    prompt_field: ClassVar[str] = "prompt"
    default_tokens: ClassVar[int | None] = 16

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    echo: bool = False
    logprobs: LogprobCount | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> dict[str, str | list[int]]:
        """Every prompt, by where it stands in the body."""
        match self.prompt:
            case str() | [int(), *_] | []:
                return {"prompt": self.prompt}  # type: ignore[dict-item]
            case entries:
                return {f"prompt[{i}]": entry for i, entry in enumerate(entries)}  # type: ignore[misc]

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def wanted_prompt_logprobs(self) -> int | None:
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((count for count in wanted if count is not None), default=None)

    def check(self, *, max_choices: int) -> None:
        super().check(max_choices=max_choices)
        if self.best_of is not None and self.best_of != self.n:
            raise Problem(400, "best_of other than n is not supported by this server", param="best_of")
        if (count := len(self.prompts) * self.n) > MAX_SEQUENCES:
            message = f"{count} answers are asked for (prompts times n); at most {MAX_SEQUENCES} are made"
            raise Problem(400, message, param="prompt")
        if self.max_tokens == 0 and not (self.echo or self.prompt_logprobs is not None):
            message = "max_tokens is 0, which makes sense only with echo or prompt_logprobs"
            raise Problem(400, message, param="max_tokens")
        self.content_format()


def parse_completion_request(body: Any, *, max_choices: int) -> Parsed[CompletionRequest]:
    """Raises Problem (400) that names the field."""
    parsed = requests.parse(CompletionRequest, body, accepted=ACCEPTED, unsupported=UNSUPPORTED)
    parsed.request.check(max_choices=max_choices)
    return replace(parsed, paths=_PATHS)
