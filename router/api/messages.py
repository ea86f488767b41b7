"""Messages of a conversation, in the shapes that OpenAI's API, vLLM and Qwen give them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from router.api.request import MAX_ENTRIES, Entries, RequestModel, text_or_list


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


def _text_or_object(value: Any) -> str:
    return "text" if isinstance(value, str) else "object"


class ImagePart(RequestModel):
    """`input_image` is what OpenAI's Responses API calls it."""

    type: Literal["image_url", "input_image"]
    image_url: (
        Annotated[Annotated[str, Tag("text")] | Annotated[ImageUrl, Tag("object")], Discriminator(_text_or_object)]
        | None
    ) = None
    detail: Detail = "auto"
    uuid: MediaUuid | None = None


class VideoUrlPart(RequestModel):
    type: Literal["video_url"]
    video_url: (
        Annotated[Annotated[str, Tag("text")] | Annotated[VideoUrl, Tag("object")], Discriminator(_text_or_object)]
        | None
    ) = None
    uuid: MediaUuid | None = None


class FramesPart(RequestModel):
    """A video as a list of frames (Qwen's own form), taken at `fps` frames a second."""

    type: Literal["video"]
    video: Annotated[list[str], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    uuid: MediaUuid | None = None


ContentPart = Annotated[TextPart | ImagePart | VideoUrlPart | FramesPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[Entries[ContentPart], Tag("list")], Discriminator(text_or_list)
]
TextContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[Entries[TextPart], Tag("list")], Discriminator(text_or_list)
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
        Annotated[str, Tag("text")] | Annotated[dict[str, Any], Tag("object")], Discriminator(_text_or_object)
    ] = "{}"
    parsed_arguments: Any = None


class ToolCall(RequestModel):
    """`index` is its place in a stream, which OpenAI's client leaves in what it put together."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: str


AssistantContent = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Entries[Annotated[TextPart | RefusalPart, Field(discriminator="type")]], Tag("list")],
    Discriminator(text_or_list),
]


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
