"""What the APIs have in common that are served as chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.api.chat import ChatRequest, parse_chat_request
from router.api.generation import GenerationRequest
from router.api.paths import Paths
from router.api.request import Parsed, unsupported_field

# Their answers have no place for these.
_NOT_SHOWN = ("prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids")


def shared_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that every API has: a chat completion takes them as they are.

    Raises:
        Problem: 400, one of them can't be honoured here.
    """
    for name in _NOT_SHOWN:
        if (value := body.get(name)) is not None and value is not False:
            raise unsupported_field(name)
    return {name: body[name] for name in GenerationRequest.model_fields if name in body}


def parse_translated(chat: Mapping[str, Any], origins: Mapping[str, str]) -> Parsed[ChatRequest]:
    """The chat completion that a body was translated to.

    Args:
        chat: its body.
        origins: see `Paths`.

    Raises:
        Problem: 400, names the field as the client wrote it.
    """
    paths = Paths(origins)
    with paths.restored():
        parsed = parse_chat_request(chat, max_choices=1)
    options = parsed.request.stream_options
    if options is not None and options.continuous_usage_stats:
        raise unsupported_field("stream_options.continuous_usage_stats")
    return Parsed(
        request=parsed.request, ignored=tuple(map(paths.origin, parsed.ignored)), paths=parsed.paths.after(paths)
    )
