"""Video files to sampled RGB frames, by PyAV.

The container is told by content and FFmpeg is held to it: left to guess, it would also take play lists, which open
other files and addresses.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import av.container
import av.error
import numpy as np
import numpy.typing as npt

from common.errors import BadMediaError, CancelledError
from common.processing import DEFAULT_VIDEO_FPS
from encode_server.media.limits import MediaLimits

SUPPORTED = "MP4, MOV, WebM, MKV and AVI"
_BROKEN = (av.error.FFmpegError, EOFError, ValueError, OverflowError, MemoryError)
# Containers' own frame rate is exact where it is right; a measured one has the jitter of coarse time stamps.
_RATE_TOLERANCE = 0.05
# Frames that a decoder may fail to give at the end: those that refer to pictures before the cut.
_MISSING_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """Of the video stream of a file.

    Attributes:
        frames: in the stream, counted.
        fps: of the stream, on average.
        height: of a frame as shown, in pixels.
        width: likewise.
    """

    frames: int
    fps: float
    height: int
    width: int


def probe_video(data: bytes, limits: MediaLimits, is_cancelled: Callable[[], bool] = lambda: False) -> VideoHeader:
    """Counts the frames and decodes the first one, which tells its true size and rotation.

    Raises:
        BadMediaError: not a video that can be read, cut off, broken, or too large.
        CancelledError: `is_cancelled` said so; it is asked before each packet.
    """
    with _open(data, limits) as (container, stream):
        frames, fps = _count(container, stream, limits, is_cancelled)
    with _open(data, limits) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise BadMediaError("the video has no frames")
        height, width = _upright(first).shape[:2]
        return VideoHeader(frames=frames, fps=fps, height=height, width=width)


def decode_frames(
    data: bytes, indices: Sequence[int], limits: MediaLimits, is_cancelled: Callable[[], bool] = lambda: False
) -> Iterator[npt.NDArray[np.uint8]]:
    """Each frame of `indices` as `[height, width, 3]`, upright, one at a time.

    Args:
        indices: ascending, in the order in which frames are shown; an index may come more than once.
        is_cancelled: asked before each frame, sampled or not.

    Raises:
        BadMediaError: not a video that can be read, cut off, broken, or too large.
        CancelledError: `is_cancelled` said so.
    """
    assert all(a <= b for a, b in pairwise(indices)), "indices are not ascending"
    with _open(data, limits) as (container, stream):
        if (indices[-1] + 1) * stream.width * stream.height > limits.max_decoded_pixels:
            raise BadMediaError(
                f"the video has {stream.width} x {stream.height} pixels in {indices[-1] + 1} frames, over the limit of "
                f"{limits.max_decoded_pixels} in all"
            )
        wanted = iter(indices)
        index = next(wanted, None)
        shape: tuple[int, ...] | None = None
        decoded = 0
        frame: av.VideoFrame | None = None
        for position, frame in enumerate(container.decode(stream)):
            if index is None:
                return
            if is_cancelled():
                raise CancelledError("the video is no longer wanted")
            decoded += 1
            if position < index:
                continue
            if frame.is_corrupt:
                raise BadMediaError(f"frame {position} of the video is broken")
            pixels = _upright(frame)
            if pixels.shape != (shape := shape or pixels.shape):
                raise BadMediaError(f"the size of the video's frames changes at frame {position}")
            while index == position:
                yield pixels
                index = next(wanted, None)
        if index is None:
            return
        if frame is None or indices[-1] - decoded >= _MISSING_FRAMES:
            raise BadMediaError(f"the video breaks off after {decoded} frames")
        pixels = _upright(frame)
        while index is not None:
            yield pixels
            index = next(wanted, None)


@contextmanager
def _open(data: bytes, limits: MediaLimits) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its video stream, within the limits; whatever FFmpeg raises becomes a BadMediaError."""
    if not data:
        raise BadMediaError("the video is empty")
    if len(data) > limits.max_bytes:
        raise BadMediaError(f"the video has {len(data)} bytes, over the limit of {limits.max_bytes}")
    kind = _container(data)
    try:
        with av.open(io.BytesIO(data), "r", format=kind, options={"protocol_whitelist": "none"}) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                raise BadMediaError("the file has no video in it")
            if not hasattr(stream, "width"):  # PyAV's way to say that there is no decoder for it
                raise BadMediaError("the video's codec is not known")
            if stream.width * stream.height > limits.max_pixels:
                raise BadMediaError(
                    f"the video has {stream.width} x {stream.height} pixels, over the limit of {limits.max_pixels}"
                )
            # the stream itself may claim another size later
            stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
            stream.thread_type = "AUTO"
            yield container, stream
    except _BROKEN as error:
        raise BadMediaError("the video is broken or cut off") from error


def _container(data: bytes) -> str:
    """FFmpeg's name of the container."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mov"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "avi"
    raise BadMediaError(f"not a video that can be read: {SUPPORTED} are")


def _count(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    limits: MediaLimits,
    is_cancelled: Callable[[], bool],
) -> tuple[int, float]:
    """Frames of the stream, and their rate."""
    shown = hidden = 0
    begin: int | None = None
    end: int | None = None
    time_base = stream.time_base or Fraction(1, 1)
    for position, packet in enumerate(container.demux()):  # all streams: to skip one takes as long as to look at it
        if is_cancelled():
            raise CancelledError("the video is no longer wanted")
        if position >= limits.max_packets:
            raise BadMediaError(f"the video is cut into more than the limit of {limits.max_packets} packets")
        if packet.stream is not stream or packet.size == 0:  # empty: the end
            continue
        if packet.is_corrupt:
            raise BadMediaError("the video is broken or cut off")
        if packet.is_discard:  # cut away by an edit list: decoded, never shown
            hidden += 1
            continue
        shown += 1
        if packet.pts is not None:
            begin = packet.pts if begin is None else min(begin, packet.pts)
            end = max(end or packet.pts, packet.pts + (packet.duration or 0))
            if (end - begin) * time_base > limits.max_seconds:
                raise BadMediaError(f"the video is longer than the limit of {limits.max_seconds:.0f} seconds")
    if shown == 0 or shown + hidden < stream.frames:
        raise BadMediaError(f"the video breaks off after {shown} of {stream.frames} frames")
    stated = float(stream.average_rate or 0)
    span = float((end - begin) * time_base) if begin is not None and end is not None else 0.0
    measured = shown / span if span else 0.0
    if stated and (not measured or abs(stated / measured - 1) <= _RATE_TOLERANCE):
        return shown, stated
    return shown, measured or DEFAULT_VIDEO_FPS


def _upright(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """RGB of a frame, turned as its container says."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    quarters = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels
