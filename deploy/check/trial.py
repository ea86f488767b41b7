"""One request through servers of our choice, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# unreachable: no answer from the router; timeout: not in time; refused: an HTTP error; answer: 200, but not an answer
Cause = Literal["unreachable", "timeout", "refused", "answer"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a request has no answer."""

    cause: Cause
    message: str
    status: int | None = None  # of HTTP
    param: str | None = None  # what of the request it is about, as the router says


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A text or, with an encode server, an image."""

    language: str  # address
    encode: str | None  # address
    request_id: str  # in the router's log
    seconds: float  # from the request to its answer, as seen from here
    timings: Mapping[str, float] = field(default_factory=dict)  # milliseconds by stage
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None


def problem_with(body: Any, *, image: bool) -> str:
    """What an answer of the router lacks; "" if it is whole."""
    try:
        (choice,) = body["choices"]
        usage, timings = body["usage"], body["timings"]
        if not isinstance(choice["message"], dict) or choice["finish_reason"] not in ("stop", "length"):
            return f"the answer is not finished: finish_reason is {choice['finish_reason']!r}"
        if not usage["completion_tokens"] > 0:
            return "the answer has no tokens"
        if image and not usage["prompt_tokens_details"]["image_tokens"] > 0:
            return "the image is not in the prompt: usage counts no tokens of it"
        stages = ("prefill", "decode", *(("vision", "transfer") if image else ()))
        if absent := [stage for stage in stages if not isinstance(timings[stage], int | float)]:
            return f"the times of {', '.join(absent)} are no numbers"
    except (KeyError, TypeError, ValueError) as error:
        return f"it is not a chat completion with usage and timings: {error!r}"
    return ""
