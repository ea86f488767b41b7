"""Frames, rate and size of the video in an MP4 or QuickTime file, from its boxes (ISO/IEC 14496-12).

For the fake encode server, which has no decoder: standard library only, and nothing of the video itself is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import BadMediaError


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """`height` and `width` in pixels, upright; `fps` is the mean rate."""

    frames: int
    fps: float
    height: int
    width: int


def read_video_header(data: bytes) -> VideoHeader:
    """Of the file's first video track.

    Raises:
        BadMediaError: not such a file, cut off, or without a video in it.
    """
    file = memoryview(data)
    if bytes(file[4:8]) != b"ftyp":
        raise BadMediaError("not a video that a fake encode server can read: MP4 and QuickTime are")
    try:
        for track in _find(file, "moov", "trak"):
            if bytes(next(_find(track, "mdia", "hdlr"))[8:12]) == b"vide":
                return _track(track)
    except (struct.error, StopIteration, ZeroDivisionError) as error:
        raise BadMediaError("the video is cut off or broken within its header") from error
    raise BadMediaError("the file has no video in it, or is cut off")


def _track(track: memoryview) -> VideoHeader:
    table = next(_find(track, "mdia", "minf", "stbl"))
    media = next(_find(track, "mdia", "mdhd"))
    (timescale,) = struct.unpack_from(">I", media, 20 if media[0] == 1 else 12)
    times = next(_find(table, "stts"))
    frames = ticks = 0
    for entry in range(struct.unpack_from(">I", times, 4)[0]):
        count, delta = struct.unpack_from(">II", times, 8 + 8 * entry)
        frames, ticks = frames + count, ticks + count * delta
    # the sample description: version and count, then the first entry, whose size stands at offset 32
    width, height = struct.unpack_from(">HH", next(_find(table, "stsd")), 8 + 32)
    if not (frames and width and height):
        raise BadMediaError("the video has no frames")
    if _lies_on_its_side(next(_find(track, "tkhd"))):
        width, height = height, width
    return VideoHeader(frames=frames, fps=frames * timescale / ticks, height=height, width=width)


def _lies_on_its_side(header: memoryview) -> bool:
    """Whether the track's matrix turns it by a quarter: x is then made of y only."""
    (a,) = struct.unpack_from(">i", header, 52 if header[0] == 1 else 40)
    return bool(a == 0)


def _find(box: memoryview, *path: str) -> Iterator[memoryview]:
    """Contents of all boxes at `path` within the content of `box`."""
    offset = 0
    while offset + 8 <= len(box):
        size, name = struct.unpack_from(">I4s", box, offset)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", box, offset + 8)
            head = 16
        elif size == 0:  # to the end
            size = len(box) - offset
        if size < head:
            raise struct.error("a box is smaller than its header")
        if name == path[0].encode():
            content = box[offset + head : offset + size]
            yield from _find(content, *path[1:]) if path[1:] else (content,)
        offset += size
