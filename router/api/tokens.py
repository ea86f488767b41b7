"""Bodies of /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from router.api import request as requests
from router.api.chat import ChatRequest, MediaOptions
from router.api.fields import ACCEPTED
from router.api.generation import TokenId
from router.api.messages import Message
from router.api.request import MAX_ENTRIES, Entries, Parsed, RequestModel, unsupported_field
from router.api.tools import Tool
from router.problems import Problem

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "chat_template": (),
    "documents": ([],),
    "media_io_kwargs": ({},),
}
_OF_CONVERSATIONS = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "mm_processor_kwargs",
)


class TokenizeRequest(RequestModel):
    """A plain prompt, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None  # of a prompt, unless false
    return_token_strs: bool = False

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)] | None = None
    tools: Annotated[Entries[Tool], Field(default_factory=list)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Annotated[dict[str, Any], Field(default_factory=dict)]
    mm_processor_kwargs: MediaOptions = MediaOptions()

    @property
    def stream(self) -> bool:
        return False

    @property
    def chat(self) -> ChatRequest:
        """The conversation."""
        return ChatRequest(**{name: getattr(self, name) for name in _OF_CONVERSATIONS if name in self.model_fields_set})

    def check(self) -> None:
        """What concerns several fields. Raises Problem (400), which names one."""
        if (self.prompt is None) == (self.messages is None):
            raise Problem(400, "either prompt or messages has to be given", param="prompt")
        if self.messages is not None:
            if self.add_special_tokens:
                raise unsupported_field("add_special_tokens")
            self.chat.check(max_choices=1)
            return
        for name in _OF_CONVERSATIONS:
            if name in self.model_fields_set:
                raise Problem(400, f"{name} is for messages, not for a prompt", param=name)


class DetokenizeRequest(RequestModel):
    model: str | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]

    @property
    def stream(self) -> bool:
        return False


def parse_tokenize_request(body: Any) -> Parsed[TokenizeRequest]:
    """Raises Problem (400) that names the field."""
    parsed = requests.parse(TokenizeRequest, body, accepted=ACCEPTED, unsupported=_UNSUPPORTED)
    parsed.request.check()
    return parsed


def parse_detokenize_request(body: Any) -> Parsed[DetokenizeRequest]:
    """Raises Problem (400) that names the field."""
    return requests.parse(DetokenizeRequest, body, accepted=ACCEPTED, unsupported={})
