"""Messages of a request as the chat template takes them, and the media that they refer to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.pb import common_pb2
from router import strict_json
from router.api import messages as shapes
from router.api.chat import MediaOptions
from router.api.tools import Tool
from router.media.loader import MediaRef
from router.problems import Problem

# What OpenAI's API calls low detail: a picture of 512 x 512.
_LOW_DETAIL_PIXELS = 512 * 512


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Args:
    messages: for `ChatTemplate.render`.
    tools: likewise.
    media: in the order of their placeholders.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    media: list[MediaRef]

    @property
    def text_bytes(self) -> int:
        """Of all that was said in it, in UTF-8."""
        said: list[Any] = [*self.tools]
        for message in self.messages:
            content = message["content"]
            said += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            said += [value for field, value in message.items() if field not in ("role", "content")]
        return text_bytes(said)

    @property
    def leading_messages(self) -> list[dict[str, Any]]:
        """Up to the first one of the user: what the turns of a conversation have in common."""
        for i, message in enumerate(self.messages):
            if message["role"] == "user":
                return self.messages[: i + 1]
        return self.messages

    def affinity(self, salt: bytes, keys: Sequence[bytes]) -> bytes:
        """What requests have in common that should meet at one language server, for its prefix cache.

        Args:
            salt: of the tenant.
            keys: of `media`.
        """
        leading = self.leading_messages
        parts = [part for message in leading if isinstance(message["content"], list) for part in message["content"]]
        count = sum(part["type"] != "text" for part in parts)
        text = json.dumps([self.tools, leading], sort_keys=True).encode()
        return hashlib.sha256(b"".join((len(salt).to_bytes(1, "little"), salt, *keys[:count], text))).digest()


def text_bytes(value: Any) -> int:
    """Of all text in a JSON value, in UTF-8; other things count a little."""
    size, waiting = 0, [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                size += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
            case dict() as entries:
                waiting += [*entries.keys(), *entries.values()]
            case list() as entries:
                waiting += entries
            case _:
                size += 1  # at least
    return size


def converse(
    messages: Sequence[shapes.Message], options: MediaOptions, *, largest_image: int, tools: Sequence[Tool] = ()
) -> Conversation:
    """Takes messages apart.

    Args:
        messages: of the request.
        options: of the request, for all its media.
        tools: of the request.
        largest_image: the checkpoint's own limit, in pixels.

    Raises:
        Problem: 400, a part of a message has nothing in it.
    """
    converter = _Converter(options, min(_LOW_DETAIL_PIXELS, largest_image))
    rendered = [converter.message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    return Conversation(messages=rendered, tools=[tool.shown() for tool in tools], media=converter.media)


class _Converter:
    def __init__(self, options: MediaOptions, low_detail_pixels: int) -> None:
        self._options = options
        self._low_detail_pixels = low_detail_pixels
        self.media: list[MediaRef] = []

    def message(self, message: shapes.Message, param: str) -> dict[str, Any]:
        content: str | list[dict[str, Any]] = ""
        if isinstance(message.content, str):
            content = message.content
        elif message.content is not None:
            content = [self._part(part, f"{param}.content[{i}]") for i, part in enumerate(message.content)]
        if isinstance(message, shapes.AssistantMessage) and message.refusal:
            content = _followed_by(content, message.refusal)
        shown: dict[str, Any] = {"role": message.role, "content": content}
        if message.role == "developer":
            shown["role"] = "system"
        if message.name is not None:
            shown["name"] = message.name
        if isinstance(message, shapes.AssistantMessage):
            if (reasoning := message.reasoning_content or message.reasoning) is not None:
                shown["reasoning_content"] = reasoning
            if message.tool_calls:
                shown["tool_calls"] = [_call(call) for call in message.tool_calls]
        if isinstance(message, shapes.ToolMessage) and message.tool_call_id is not None:
            shown["tool_call_id"] = message.tool_call_id
        return shown

    def _part(self, part: shapes.ContentPart | shapes.RefusalPart, param: str) -> dict[str, Any]:
        match part:
            case shapes.TextPart():
                return {"type": "text", "text": part.text}
            case shapes.RefusalPart():
                return {"type": "text", "text": part.refusal}
            case shapes.ImagePart():
                image = part.image_url
                if isinstance(image, str) or image is None:
                    image = shapes.ImageUrl(url=image, detail=part.detail)
                urls: tuple[str, ...] = (image.url,) if image.url is not None else ()
                place = "image_url" if part.image_url is None or isinstance(part.image_url, str) else "image_url.url"
                detail = part.detail if image.detail == "auto" else image.detail
                self._refer(common_pb2.IMAGE, urls, self._image_options(detail), part.uuid, param, place)
                return {"type": "image"}
            case shapes.VideoUrlPart():
                video = part.video_url
                url = video.url if isinstance(video, shapes.VideoUrl) else video
                frames = _frames_of(url or "")
                kind = common_pb2.FRAMES if frames else common_pb2.VIDEO
                urls = frames or ((url,) if url is not None else ())
                place = "video_url.url" if isinstance(video, shapes.VideoUrl) else "video_url"
                self._refer(kind, urls, self._video_options(), part.uuid, param, place)
                return {"type": "video"}
            case shapes.FramesPart():
                options = self._video_options(part.fps)
                self._refer(common_pb2.FRAMES, tuple(part.video or ()), options, part.uuid, param, "video")
                return {"type": "video"}

    def _refer(
        self,
        kind: common_pb2.MediaKind,
        urls: tuple[str, ...],
        options: Mapping[str, Any],
        uuid: str | None,
        param: str,
        place: str,
    ) -> None:
        """Raises Problem (400) for a part that has neither content, in its field `place`, nor a uuid."""
        if not urls and uuid is None:
            text = f"{param}.{place}: Field required, unless a uuid names an item that was sent before"
            raise Problem(400, text, param=f"{param}.{place}", code="missing_required_parameter")
        wire = common_pb2.MediaOptions(**options)
        self.media.append(MediaRef(kind=kind, urls=urls, options=wire, uuid=uuid, param=param))

    def _image_options(self, detail: str) -> dict[str, Any]:
        limits = {"max_pixels": self._low_detail_pixels} if detail == "low" else {}
        return limits | self._options.model_dump(include={"min_pixels", "max_pixels"}, exclude_none=True)

    def _video_options(self, fps: float | None = None) -> dict[str, Any]:
        return self._options.model_dump(exclude_none=True) | ({"fps": fps} if fps is not None else {})


def _followed_by(content: str | list[dict[str, Any]], text: str) -> str | list[dict[str, Any]]:
    if not content:
        return text
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*parts, {"type": "text", "text": text}]


def _call(call: shapes.ToolCall) -> dict[str, Any]:
    """Arguments are objects for a template, as transformers has it; what is none stays the text that it is."""
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        try:
            value = strict_json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            value = None
        arguments = value if isinstance(value, dict) else arguments
    return {"type": "function", "id": call.id, "function": {"name": call.function.name, "arguments": arguments}}


def _frames_of(url: str) -> tuple[str, ...]:
    """The frames of "data:video/jpeg;base64,<frame>,<frame>,...", vLLM's way of sending a video as images."""
    prefix = "data:video/jpeg;base64,"
    if url[: len(prefix)].lower() != prefix:
        return ()
    return tuple(f"data:image/jpeg;base64,{frame}" for frame in url[len(prefix) :].split(","))
