"""What becomes of a media item, from its header alone and without any decoder: the fake encode server's view of it."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import BadMediaError, InvalidRequestError
from common.pb import common_pb2 as pb
from common.processing import DEFAULT_VIDEO_FPS, Grid, ImageRules, MediaOptions, VideoRules
from common.processor_config import MediaRules
from encode_server.media.headers import read_header
from encode_server.media.limits import MediaLimits
from encode_server.mp4 import read_video_header


def plan(
    rules: MediaRules, limits: MediaLimits, kind: pb.MediaKind, parts: Sequence[bytes], options: pb.MediaOptions
) -> pb.MediaMetadata:
    """Grid, rows and timestamps, as the real encode server gives them.

    Args:
        rules: of the checkpoint.
        kind: of the item.
        parts: the file; for FRAMES one image file each.
        options: of the request.

    Raises:
        BadMediaError: the media can't be used.
        InvalidRequestError: the options can't.
    """
    try:
        overrides = MediaOptions.from_wire(options)
        image = rules.image.override(overrides) if kind == pb.IMAGE else None
        video = rules.video.override(overrides) if kind != pb.IMAGE and rules.video is not None else None
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    try:
        if image is not None:
            return _plan_image(image, limits, parts[0])
        if video is None:
            raise InvalidRequestError("this model takes no videos")
        if kind == pb.VIDEO:
            return _plan_video(video, limits, parts[0])
        return _plan_frames(video, limits, parts, overrides)
    except ValueError as error:  # no size fits
        raise BadMediaError(str(error)) from error


def _plan_image(rules: ImageRules, limits: MediaLimits, data: bytes) -> pb.MediaMetadata:
    return _metadata(rules.grid(*_size(data, limits)), rules)


def _plan_video(rules: VideoRules, limits: MediaLimits, data: bytes) -> pb.MediaMetadata:
    header = read_video_header(data)
    if header.width * header.height > limits.max_pixels or header.frames / header.fps > limits.max_seconds:
        raise BadMediaError(f"{header.frames} frames of {header.width} x {header.height} pixels are over the limit")
    indices = rules.sample(header.frames, header.fps)
    grid = rules.grid(len(indices), header.height, header.width)
    return _metadata(grid, rules, rules.timestamps(indices, header.fps))


def _plan_frames(
    rules: VideoRules, limits: MediaLimits, parts: Sequence[bytes], options: MediaOptions
) -> pb.MediaMetadata:
    for name in ("num_frames", "min_frames", "max_frames"):
        if getattr(options, name) is not None:
            raise InvalidRequestError(f"{name} is an option of video files, not of a list of frames")
    if len(parts) > rules.max_frames:
        raise BadMediaError(f"the video has {len(parts)} frames, over the limit of {rules.max_frames}")
    sizes = {_size(part, limits) for part in parts}
    if len(sizes) != 1:
        raise BadMediaError(f"the frames of a video must have one size, these have {len(sizes)}")
    fps = options.fps or rules.fps or DEFAULT_VIDEO_FPS
    return _metadata(rules.grid(len(parts), *sizes.pop()), rules, rules.timestamps(range(len(parts)), fps))


def _size(data: bytes, limits: MediaLimits) -> tuple[int, int]:
    """(height, width) of an image, upright."""
    header = read_header(data)
    if header.width * header.height > limits.max_pixels:
        raise BadMediaError(
            f"the image has {header.width} x {header.height} pixels, over the limit of {limits.max_pixels}"
        )
    return header.upright


def _metadata(grid: Grid, rules: ImageRules | VideoRules, timestamps: Sequence[float] = ()) -> pb.MediaMetadata:
    return pb.MediaMetadata(
        grid=pb.Grid(t=grid.t, h=grid.h, w=grid.w), rows=grid.rows(rules.merge_size), timestamps=timestamps
    )
