"""Media of a request: from the references in its messages to bytes with a key."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from common.errors import BadMediaError, EPDError, InvalidRequestError
from common.media_key import media_digest, media_key
from common.pb import common_pb2
from router.config import RouterConfig
from router.fleet.encodes import MediaItem
from router.fleet.fleet import Fleet
from router.media.aliases import Aliases, Remembered
from router.media.budget import Hold
from router.media.fetch import Fetcher
from router.media.files import LocalFiles
from router.problems import ItemError, MediaUnknownError
from router.stages import Stages
from router.threads import Threads

T = TypeVar("T")

_THREAD_BYTES = 1 << 18  # from here on hashing and decoding leave the event loop
_UNQUOTE_CHARACTERS = 1 << 16  # at a time
_FROM_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_ANY = frozenset({"", "application/octet-stream", "binary/octet-stream"})  # says nothing about the content
_WORD = {common_pb2.IMAGE: "image", common_pb2.VIDEO: "video", common_pb2.FRAMES: "image"}


@dataclass(frozen=True, kw_only=True)
class MediaRef:
    """An image or a video as a message refers to it."""

    kind: common_pb2.MediaKind
    urls: tuple[str, ...]  # one, or one a frame; none: the item is known by its uuid
    options: common_pb2.MediaOptions
    param: str
    uuid: str | None = None  # the client's name for the item

    @property
    def word(self) -> str:
        return "image" if self.kind == common_pb2.IMAGE else "video"


class MediaLoader:
    """Args:
    config: limits.
    fetcher: for http(s).
    files: for "file:".
    aliases: what `uuid`s stand for.
    fleet: for what the keys depend on.
    threads: for hashing and decoding what is large.
    """

    def __init__(
        self,
        *,
        config: RouterConfig,
        fetcher: Fetcher,
        files: LocalFiles,
        aliases: Aliases,
        fleet: Fleet,
        threads: Threads,
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._files = files
        self._aliases = aliases
        self._fleet = fleet
        self._threads = threads

    def check_counts(self, refs: Sequence[MediaRef]) -> None:
        """Raises InvalidRequestError or ItemError if there are more media than allowed, or any without vision."""
        images = sum(ref.kind == common_pb2.IMAGE for ref in refs)
        videos = len(refs) - images
        if refs and not self._fleet.has_vision:
            raise ItemError(InvalidRequestError("this model takes no images or videos"), refs[0].param)
        for count, limit, word in (
            (images, self._config.max_images, "images"),
            (videos, self._config.max_videos, "videos"),
        ):
            if count > limit:
                raise InvalidRequestError(f"{count} {word} in one request; at most {limit} are allowed")
        for ref in refs:
            if len(ref.urls) > self._config.max_video_frames:
                error = InvalidRequestError(
                    f"a video of {len(ref.urls)} frames; at most {self._config.max_video_frames} are allowed"
                )
                raise ItemError(error, ref.param)

    async def load(self, refs: Sequence[MediaRef], *, salt: bytes, hold: Hold, stages: Stages) -> list[MediaItem]:
        """All items, loaded side by side.

        Raises:
            ItemError: of the first one that can't be had; the others are given up.
        """
        sent = [ref for ref in refs if ref.urls]
        loaded = await _all(self._load_one(ref, salt, hold, stages) for ref in sent)
        by_uuid = {(ref.word, ref.uuid): item for ref, item in zip(sent, loaded, strict=True)}
        by_key = {item.key: item for item in loaded}
        items = iter(loaded)

        def recall(ref: MediaRef) -> MediaItem:
            """Best with the bytes, should they have come with this very request."""
            item = by_uuid.get((ref.word, ref.uuid)) or self._recall(ref, salt)
            return by_key.get(item.key, item)

        return [next(items) if ref.urls else recall(ref) for ref in refs]

    def remember(self, refs: Sequence[MediaRef], items: Sequence[MediaItem], *, salt: bytes) -> None:
        """Keeps the names of items that were sent and have proved to be what they should be."""
        for ref, item in zip(refs, items, strict=True):
            if ref.urls and ref.uuid is not None:
                remembered = Remembered(kind=item.kind, options=item.options, digest=item.digest, sizes=item.sizes)
                self._aliases.put(salt, ref.word, ref.uuid, remembered)

    def _recall(self, ref: MediaRef, salt: bytes) -> MediaItem:
        """The item that a reference without content names; as it was sent, unless the reference has options."""
        assert ref.uuid is not None
        found = self._aliases.get(salt, ref.word, ref.uuid)
        if found is None:
            text = f"no {ref.word} is known by this uuid: send it with its content"
            raise ItemError(MediaUnknownError(text), ref.param)
        options = ref.options if ref.options.ByteSize() else found.options
        return self._item(ref, salt, found.kind, options, found.digest, found.sizes, None)

    async def _load_one(self, ref: MediaRef, salt: bytes, hold: Hold, stages: Stages) -> MediaItem:
        try:
            with stages.stage("fetch"):
                parts = tuple(await _all(self._bytes(url, ref.kind, hold) for url in ref.urls))
        except EPDError as error:
            raise ItemError(error, ref.param) from None
        sizes = tuple(map(len, parts))
        large = sum(sizes) >= _THREAD_BYTES
        with stages.stage("hash"):
            digest = await self._threads.run(lambda: media_digest(parts)) if large else media_digest(parts)
        return self._item(ref, salt, ref.kind, ref.options, digest, sizes, parts)

    def _item(
        self,
        ref: MediaRef,
        salt: bytes,
        kind: common_pb2.MediaKind,
        options: common_pb2.MediaOptions,
        digest: bytes,
        sizes: tuple[int, ...],
        parts: tuple[bytes, ...] | None,
    ) -> MediaItem:
        assert self._fleet.model is not None
        info = self._fleet.model.info
        key = media_key(
            salt=salt,
            digest=digest,
            kind=kind,
            options=options,
            fingerprint=info.fingerprint,
            dtype=info.dtype,
            processor_version=self._fleet.processor_version,
        )
        return MediaItem(key=key, kind=kind, options=options, sizes=sizes, parts=parts, digest=digest, param=ref.param)

    async def _bytes(self, url: str, kind: common_pb2.MediaKind, hold: Hold) -> bytes:
        word, limit = _WORD[kind], self._config.max_media_bytes
        if url[:5].lower() == "data:":
            # room for what the text holds at most, before it is decoded
            hold.add(len(url))
            content_type, body = (
                await self._threads.run(lambda: decode_data_uri(url, limit))
                if len(url) >= _THREAD_BYTES
                else decode_data_uri(url, limit)
            )
            hold.remove(len(url) - len(body))
        elif url[:5].lower() == "file:":
            content_type, body = "", await self._files.read(url, limit=limit, hold=hold)
        else:
            fetched = await self._fetcher.fetch(url, limit=limit, hold=hold)
            content_type, body = fetched.content_type, fetched.body
        if content_type not in _ANY and not content_type.startswith(f"{word}/"):
            raise BadMediaError(f"its content type is {content_type!r}, which is not that of {word}s")
        if not body:
            raise BadMediaError(f"the {word} has no bytes")
        return body


def decode_data_uri(uri: str, limit: int) -> tuple[str, bytes]:
    """(content type, content) of a "data:" URI (RFC 2397).

    Raises:
        BadMediaError: it is malformed, or its content has over `limit` bytes.
    """
    head, comma, data = uri[5:].partition(",")
    if not comma:
        raise BadMediaError("it is not a valid data URI: the comma is missing")
    content_type, *parameters = (part.strip().lower() for part in head.split(";"))
    is_base64 = "base64" in parameters
    if len(data) > (limit // 3 * 4 + 1024 if is_base64 else 3 * limit):  # a quoted byte is "%41"
        raise BadMediaError(f"it has more than the {limit} bytes that are allowed")
    try:
        body = _decode_base64(data) if is_base64 else bytes(_unquote(data))
    except ValueError:
        raise BadMediaError("its base64 is not valid") from None
    if len(body) > limit:
        raise BadMediaError(f"it has more than the {limit} bytes that are allowed")
    return content_type, body


def _decode_base64(data: str) -> bytes:
    """Also without padding, in the URL alphabet, percent-encoded, or with line breaks: clients send all of these."""
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raw = _unquote(data) if "%" in data else data.encode("ascii")
        raw = raw.translate(_FROM_URL_ALPHABET, b" \t\r\n\v\f").rstrip(b"=")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)


def _unquote(data: str) -> bytearray:
    """As `unquote_to_bytes`, a piece at a time: that makes an object of every escape."""
    body = bytearray()
    start = 0
    while start < len(data):
        end = start + _UNQUOTE_CHARACTERS
        if end < len(data) and (escape := data.rfind("%", end - 2, end)) >= 0:
            end = escape  # it is not cut in two
        body += unquote_to_bytes(data[start:end])
        start = end
    return body


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Side by side. The first failure ends the others before it is raised: nothing of them stays behind."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
