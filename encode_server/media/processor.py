"""A media item from its bytes to the patches of the vision tower: first a quick look for its grid, then the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from common.errors import BadMediaError, CancelledError, InvalidRequestError
from common.pb import common_pb2 as pb
from common.processing import DEFAULT_VIDEO_FPS, Grid, ImageRules, MediaOptions, VideoRules
from common.processor_config import MediaRules
from encode_server.media.images import decode_image, probe_image
from encode_server.media.limits import MediaLimits
from encode_server.media.patches import patchify, resize
from encode_server.media.videos import decode_frames, probe_video


@dataclass(frozen=True, kw_only=True)
class MediaPlan:
    """What will be made of an item; known from its header.

    Attributes:
        kind: an image file, a video file, or a list of frames.
        rules: of the checkpoint, with the request's overrides.
        grid: in patches.
        rows: visual tokens.
        source_pixels: of an image or a frame as stored: what decoding has to hold at a time.
        timestamps: seconds of each temporal patch; empty for an image.
        indices: the frames of a video file that are looked at.
    """

    kind: pb.MediaKind
    rules: ImageRules | VideoRules
    grid: Grid
    source_pixels: int
    timestamps: tuple[float, ...] = ()
    indices: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return self.grid.rows(self.rules.merge_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Of what `MediaProcessor.patches` returns."""
        return self.grid.patches, self.rules.patch_dim

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that every frame is resized to."""
        return self.grid.h * self.rules.patch_size, self.grid.w * self.rules.patch_size


@dataclass(frozen=True, kw_only=True)
class MediaProcessor:
    """Applies a checkpoint's rules to media; holds no state, so any number of threads may use one."""

    rules: MediaRules
    limits: MediaLimits

    def plan(
        self,
        kind: pb.MediaKind,
        parts: Sequence[bytes],
        options: MediaOptions,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> MediaPlan:
        """From headers alone, and for a video file one decoded frame.

        Args:
            kind: of the item.
            parts: the file; for FRAMES one image file each.
            options: of the request. A list of frames was taken at `options.fps`, by default the checkpoint's sampling
                rate: that is how fast the model is used to see them.

        Raises:
            BadMediaError: the media can't be used.
            InvalidRequestError: the options can't.
            CancelledError: `is_cancelled` said so.
        """
        rules = self._rules(kind, options)
        try:
            if isinstance(rules, ImageRules):
                return self._plan_image(parts[0], rules)
            if kind == pb.VIDEO:
                return self._plan_video(parts[0], rules, is_cancelled)
            return self._plan_frames(parts, rules, fps=options.fps or rules.fps or DEFAULT_VIDEO_FPS)
        except ValueError as error:  # no size fits
            raise BadMediaError(str(error)) from error

    def patches(
        self,
        plan: MediaPlan,
        parts: Sequence[bytes],
        *,
        dtype: torch.dtype = torch.float32,
        out: torch.Tensor | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> torch.Tensor:
        """`plan.patch_shape` in `dtype`, or in `out` where that is given; takes milliseconds to minutes.

        Raises:
            BadMediaError: the media turn out to be broken.
            CancelledError: `is_cancelled` said so.
        """
        height, width = plan.size
        if plan.kind == pb.IMAGE:
            frames = resize(decode_image(parts[0], self.limits), height, width)[None]
            return patchify(frames, plan.rules, dtype=dtype, out=out)
        # only what the model sees is kept: frames shrink before the next one is decoded
        count = len(plan.indices) if plan.kind == pb.VIDEO else len(parts)
        frames = torch.empty(count, len(plan.rules.mean), height, width, dtype=torch.uint8)
        if plan.kind == pb.VIDEO:
            for index, frame in enumerate(decode_frames(parts[0], plan.indices, self.limits, is_cancelled)):
                frames[index] = resize(frame, height, width)
        else:
            for index, part in enumerate(parts):
                if is_cancelled():
                    raise CancelledError("the frames are no longer wanted")
                frames[index] = resize(decode_image(part, self.limits), height, width)
        return patchify(frames, plan.rules, dtype=dtype, out=out)

    def _rules(self, kind: pb.MediaKind, options: MediaOptions) -> ImageRules | VideoRules:
        rules = self.rules.image if kind == pb.IMAGE else self.rules.video
        if rules is None:
            raise InvalidRequestError("this model takes no videos")
        if kind == pb.FRAMES:
            for name in ("num_frames", "min_frames", "max_frames"):
                if getattr(options, name) is not None:
                    raise InvalidRequestError(f"{name} is an option of video files, not of a list of frames")
        try:
            return rules.override(options)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error

    def _plan_image(self, data: bytes, rules: ImageRules) -> MediaPlan:
        height, width = probe_image(data, self.limits).upright
        return MediaPlan(kind=pb.IMAGE, rules=rules, grid=rules.grid(height, width), source_pixels=height * width)

    def _plan_video(self, data: bytes, rules: VideoRules, is_cancelled: Callable[[], bool]) -> MediaPlan:
        header = probe_video(data, self.limits, is_cancelled)
        indices = rules.sample(header.frames, header.fps)
        return MediaPlan(
            kind=pb.VIDEO,
            rules=rules,
            grid=rules.grid(len(indices), header.height, header.width),
            source_pixels=header.height * header.width,
            timestamps=tuple(rules.timestamps(indices, header.fps)),
            indices=tuple(indices),
        )

    def _plan_frames(self, parts: Sequence[bytes], rules: VideoRules, fps: float) -> MediaPlan:
        if len(parts) > rules.max_frames:
            raise BadMediaError(f"the video has {len(parts)} frames, over the limit of {rules.max_frames}")
        if sum(len(part) for part in parts) > self.limits.max_bytes:
            raise BadMediaError(f"the frames have more than {self.limits.max_bytes} bytes")
        sizes = {probe_image(part, self.limits).upright for part in parts}
        if len(sizes) != 1:
            raise BadMediaError(f"the frames of a video must have one size, these have {len(sizes)}")
        height, width = sizes.pop()
        return MediaPlan(
            kind=pb.FRAMES,
            rules=rules,
            grid=rules.grid(len(parts), height, width),
            source_pixels=height * width,
            timestamps=tuple(rules.timestamps(range(len(parts)), fps)),
        )
