"""Messages of a conversation, in the shapes that OpenAI's API, vLLM and Qwen give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from router.api.request import MAX_ENTRIES, Entries, RequestModel, text_or_list, text_or_object, type_of


class TextPart(RequestModel):
    type: Literal["text", "input_text", "output_text"]
    text: str


Detail = Literal["auto", "low", "high", "original"]  # all but low: what the checkpoint allows
# The client's own name for an item. Once sent with its content, it can be sent without.
MediaUuid = Annotated[str, Field(min_length=1, max_length=512)]


class ImageUrl(RequestModel):
    url: str | None = None
    detail: Detail = "auto"


class VideoUrl(RequestModel):
    url: str | None = None


class ImagePart(RequestModel):
    """`input_image` is what OpenAI's Responses API calls it."""

    type: Literal["image_url", "input_image"]
    image_url: (
        Annotated[Annotated[str, Tag("#text")] | Annotated[ImageUrl, Tag("#object")], Discriminator(text_or_object)]
        | None
    ) = None
    detail: Detail = "auto"
    uuid: MediaUuid | None = None


class VideoUrlPart(RequestModel):
    type: Literal["video_url"]
    video_url: (
        Annotated[Annotated[str, Tag("#text")] | Annotated[VideoUrl, Tag("#object")], Discriminator(text_or_object)]
        | None
    ) = None
    uuid: MediaUuid | None = None


class FramesPart(RequestModel):
    """A video as a list of frames (Qwen's own form), taken at `fps` frames a second."""

    type: Literal["video"]
    video: Annotated[list[str], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    uuid: MediaUuid | None = None


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: str


def _spelled_out(part: Any) -> Any:
    """vLLM takes text without a part around it, and parts that do not say their type: what they hold tells it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, dict) and part.get("type") is None:
        named = [name for name in ("image_url", "video_url", "video", "refusal", "text") if name in part]
        given = [name for name in named if part[name] is not None]  # an item with a uuid may have nothing else
        return next(({**part, "type": name} for name in (*given, *named)), part)
    return part


def _told_apart(**tags: Sequence[str]) -> Discriminator:
    """Tags of parts, each with the types of its part."""
    by_type = {kind: f"#{tag}" for tag, kinds in tags.items() for kind in kinds}

    def tag_of(part: Any) -> str | None:
        kind = type_of(part)
        return by_type.get(kind) if isinstance(kind, str) else None

    message = f"the type of a part has to be one of {', '.join(by_type)} here"
    return Discriminator(tag_of, custom_error_type="part_type", custom_error_message=message)


_TEXT_KINDS = ("text", "input_text", "output_text")
ContentPart = Annotated[
    Annotated[TextPart, Tag("#text")]
    | Annotated[ImagePart, Tag("#image")]
    | Annotated[VideoUrlPart, Tag("#video_url")]
    | Annotated[FramesPart, Tag("#frames")],
    _told_apart(text=_TEXT_KINDS, image=("image_url", "input_image"), video_url=("video_url",), frames=("video",)),
    BeforeValidator(_spelled_out),
]
AssistantPart = Annotated[
    Annotated[TextPart, Tag("#text")] | Annotated[RefusalPart, Tag("#refusal")],
    _told_apart(text=_TEXT_KINDS, refusal=("refusal",)),
    BeforeValidator(_spelled_out),
]
Content = Annotated[
    Annotated[str, Tag("#text")] | Annotated[Entries[ContentPart], Tag("#list")], Discriminator(text_or_list)
]
TextContent = Annotated[
    Annotated[str, Tag("#text")] | Annotated[Entries[Annotated[TextPart, BeforeValidator(_spelled_out)]], Tag("#list")],
    Discriminator(text_or_list),
]
AssistantContent = Annotated[
    Annotated[str, Tag("#text")] | Annotated[Entries[AssistantPart], Tag("#list")], Discriminator(text_or_list)
]


class SystemMessage(RequestModel):
    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = None


class UserMessage(RequestModel):
    role: Literal["user"]
    content: Content
    name: str | None = None


class FunctionCall(RequestModel):
    """`arguments` is the JSON text that the model wrote, or the object itself. OpenAI's client adds what it parsed."""

    name: str
    arguments: Annotated[
        Annotated[str, Tag("#text")] | Annotated[dict[str, Any], Tag("#object")], Discriminator(text_or_object)
    ] = "{}"
    parsed_arguments: Any = None


class ToolCall(RequestModel):
    """`index` is its place in a stream, which OpenAI's client leaves in what it put together."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None


class AssistantMessage(RequestModel):
    """Reasoning has two names, as in answers. The last three change nothing when an answer comes back: OpenAI's client
    adds `parsed`, LiteLLM `provider_specific_fields`, and `annotations` are of a web search."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None  # the assistant's words like any others
    tool_calls: Annotated[Entries[ToolCall], Field(default_factory=list)]
    annotations: Any = None
    parsed: Any = None
    provider_specific_fields: Any = None


class ToolMessage(RequestModel):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
