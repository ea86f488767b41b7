"""How media become patches, without touching a pixel: sizes, sampled frames, timestamps, placeholder text.

The rules are those of `Qwen2VLImageProcessor`, `Qwen3VLVideoProcessor` and `Qwen3VLProcessor` of `transformers` 5,
operation by operation: another order of two float divisions can move a grid by a patch. Only the standard library is
needed here, so that the router and the fakes can use it. `common.processor_config` reads a checkpoint's own rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.pb import common_pb2 as pb

MAX_ASPECT_RATIO = 200
DEFAULT_VIDEO_FPS = 24.0  # what the reference assumes where a container does not say


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Temporal, vertical and horizontal patches of an item, before the spatial merge."""

    t: int
    h: int
    w: int

    @property
    def patches(self) -> int:
        return self.t * self.h * self.w

    def rows(self, merge_size: int) -> int:
        """Visual tokens: what is left of the patches after the spatial merge."""
        return self.patches // merge_size**2


@dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """A request's overrides; None leaves the checkpoint's own rule alone.

    `min_pixels` and `max_pixels` mean what the `size` of the checkpoint's processor means: pixels of the resized image,
    or of all frames of the resized video together. `fps` is the rate to sample a video file at, or the rate at which a
    list of frames was taken.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    min_frames: int | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "num_frames", "min_frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps}")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError("fps and num_frames exclude each other")

    @classmethod
    def from_wire(cls, message: pb.MediaOptions) -> MediaOptions:
        return cls(
            min_pixels=message.min_pixels if message.HasField("min_pixels") else None,
            max_pixels=message.max_pixels if message.HasField("max_pixels") else None,
            fps=message.fps if message.HasField("fps") else None,
            num_frames=message.num_frames if message.HasField("num_frames") else None,
            min_frames=message.min_frames if message.HasField("min_frames") else None,
            max_frames=message.max_frames if message.HasField("max_frames") else None,
        )


@dataclass(frozen=True, kw_only=True)
class PatchRules:
    """What images and videos have in common.

    `mean` and `std` are of RGB channels scaled to 0..1. Pixel limits as in `MediaOptions`.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} and max_pixels {self.max_pixels} leave no size to choose")

    @property
    def factor(self) -> int:
        """Both sides of a resized picture are multiples of this, in pixels."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Values in one patch: channels * temporal_patch_size * patch_size**2."""
        return len(self.mean) * self.temporal_patch_size * self.patch_size**2

    def _pixel_limits(self, options: MediaOptions) -> tuple[int, int]:
        max_pixels = options.max_pixels or self.max_pixels
        min_pixels = options.min_pixels or min(self.min_pixels, max_pixels)
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value > self.max_pixels:
                raise ValueError(f"{name} {value} is over the {self.max_pixels} that this model allows")
        return min_pixels, max_pixels


@dataclass(frozen=True, kw_only=True)
class ImageRules(PatchRules):
    """Of one still image."""

    def override(self, options: MediaOptions) -> ImageRules:
        """These rules with a request's overrides.

        Raises:
            ValueError: an option that images do not have, or a limit beyond the checkpoint's.
        """
        for name in ("fps", "num_frames", "min_frames", "max_frames"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is an option of videos, not of images")
        min_pixels, max_pixels = self._pixel_limits(options)
        return replace(self, min_pixels=min_pixels, max_pixels=max_pixels)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is resized to, in pixels.

        Raises:
            ValueError: the image is too long and thin.
        """
        _check_aspect_ratio(height, width)
        resized_h = round(height / self.factor) * self.factor
        resized_w = round(width / self.factor) * self.factor
        if resized_h * resized_w > self.max_pixels:
            return _shrink(height, width, self.factor, math.sqrt((height * width) / self.max_pixels))
        if resized_h * resized_w < self.min_pixels:
            return _enlarge(height, width, self.factor, math.sqrt(self.min_pixels / (height * width)))
        return resized_h, resized_w

    def grid(self, height: int, width: int) -> Grid:
        """Of an image of this size in pixels; raises as `resized` does."""
        resized_h, resized_w = self.resized(height, width)
        return Grid(t=1, h=resized_h // self.patch_size, w=resized_w // self.patch_size)


@dataclass(frozen=True, kw_only=True)
class VideoRules(PatchRules):
    """Of a video: the above, and which of its frames are looked at."""

    fps: float | None
    num_frames: int | None
    min_frames: int
    max_frames: int
    cap_pixels_per_frame: bool
    max_video_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fps is not None and self.num_frames is not None:
            raise ValueError("fps and num_frames exclude each other")
        if not 0 < self.min_frames <= self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} and max_frames {self.max_frames} leave no number to choose")

    def override(self, options: MediaOptions) -> VideoRules:
        """These rules with a request's overrides; `num_frames` takes the place of sampling by rate.

        Raises:
            ValueError: a limit beyond the checkpoint's.
        """
        for name in ("num_frames", "min_frames", "max_frames"):
            value = getattr(options, name)
            if value is not None and value > self.max_frames:
                raise ValueError(f"{name} {value} is over the {self.max_frames} frames that this model allows")
        min_pixels, max_pixels = self._pixel_limits(options)
        max_frames = options.max_frames or self.max_frames
        rules = replace(
            self,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            min_frames=options.min_frames or min(self.min_frames, max_frames),
            max_frames=max_frames,
        )
        if options.num_frames is not None:
            return replace(rules, fps=None, num_frames=options.num_frames)
        if options.fps is not None:
            return replace(rules, fps=options.fps, num_frames=None)
        return rules

    def sample(self, total_frames: int, video_fps: float) -> list[int]:
        """Indices of the frames to look at, ascending, spread evenly from the first to the last."""
        if self.num_frames is not None:
            count = self.num_frames
        elif self.fps is not None:
            wanted = int(total_frames / video_fps * self.fps)
            count = min(max(wanted, self.min_frames), self.max_frames, total_frames)
        else:
            count = min(max(total_frames, self.min_frames), self.max_frames)
        if count == 1:
            return [0]
        step = (total_frames - 1) / (count - 1)
        return [*(round(index * step) for index in range(count - 1)), total_frames - 1]

    def resized(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that each of `frames` sampled frames is resized to.

        A video of fewer frames than a temporal patch holds counts as one patch of it: the reference refuses those.

        Raises:
            ValueError: the frames are too long and thin.
        """
        frames = max(frames, self.temporal_patch_size)
        max_pixels = self.max_pixels
        if self.cap_pixels_per_frame:
            share = min(self.max_video_tokens * self.factor**2, self.max_pixels // frames)
            max_pixels = max(share, int(self.min_pixels * 1.05)) * frames
        if height < self.factor or width < self.factor:
            scale = max(self.factor / height, self.factor / width)
            height, width = int(height * scale), int(width * scale)
        _check_aspect_ratio(height, width)
        resized_h = round(height / self.factor) * self.factor
        resized_w = round(width / self.factor) * self.factor
        padded = round(frames / self.temporal_patch_size) * self.temporal_patch_size
        if padded * resized_h * resized_w > max_pixels:
            return _shrink(height, width, self.factor, math.sqrt((frames * height * width) / max_pixels))
        if padded * resized_h * resized_w < self.min_pixels:
            return _enlarge(height, width, self.factor, math.sqrt(self.min_pixels / (frames * height * width)))
        return resized_h, resized_w

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Of `frames` sampled frames of this size in pixels; raises as `resized` does."""
        resized_h, resized_w = self.resized(frames, height, width)
        return Grid(
            t=math.ceil(frames / self.temporal_patch_size),
            h=resized_h // self.patch_size,
            w=resized_w // self.patch_size,
        )

    def timestamps(self, indices: Sequence[int], video_fps: float) -> list[float]:
        """Seconds of each temporal patch: the mean of its first and last frame; a missing frame repeats the last."""
        size = self.temporal_patch_size
        padded = [*indices, *([indices[-1]] * (-len(indices) % size))]
        times = [index / video_fps for index in padded]
        return [(times[first] + times[first + size - 1]) / 2 for first in range(0, len(times), size)]


def timestamp_text(seconds: float) -> str:
    """What stands before each temporal patch of a video."""
    return f"<{seconds:.1f} seconds>"


def video_placeholder_text(timestamps: Sequence[float], rows_per_patch: int) -> str:
    """What the single `<|video_pad|>` of a chat template is replaced by.

    The template's own `<|vision_start|>` and `<|vision_end|>` stay around the whole, as in `transformers` since 5.10
    (and in vLLM on top of it); before that they were dropped.
    """
    return "".join(
        f"{timestamp_text(seconds)}<|vision_start|>{'<|video_pad|>' * rows_per_patch}<|vision_end|>"
        for seconds in timestamps
    )


def _check_aspect_ratio(height: int, width: int) -> None:
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise ValueError(f"{width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def _shrink(height: int, width: int, factor: int, ratio: float) -> tuple[int, int]:
    return (
        max(factor, math.floor(height / ratio / factor) * factor),
        max(factor, math.floor(width / ratio / factor) * factor),
    )


def _enlarge(height: int, width: int, factor: int, ratio: float) -> tuple[int, int]:
    return math.ceil(height * ratio / factor) * factor, math.ceil(width * ratio / factor) * factor
