"""RGB frames to the patches of the vision tower: resize, normalise, cut.

Legend: F frames, H W pixels, N patches, C channels, T P P the extent of a patch in frames and pixels.

Published Qwen3-VL checkpoints name torchvision's processor, which is what their users get, and whose resize is torch's
own bicubic one on uint8. It is called here in the same way, so the values are the same bits. The Pillow processor that
`transformers` falls back to without torchvision differs from both in under 1 % of values, by one or two of 255 steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from common.processing import PatchRules


def resize(frame_HWC: npt.NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
    """`[C, height, width]` uint8: bicubic with antialiasing."""
    frame_CHW = torch.from_numpy(frame_HWC).permute(2, 0, 1)
    if frame_CHW.shape[1:] == (height, width):
        return frame_CHW
    return interpolate(
        frame_CHW[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False
    ).squeeze(0)


def patchify(
    frames_FCHW: torch.Tensor,
    rules: PatchRules,
    *,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`[N, C*T*P*P]` of uint8 frames whose sides are multiples of `rules.factor`.

    Patches of one merged token follow each other. Frames that are missing in the last temporal patch repeat the last
    one; so an image, one frame, fills its patches with itself. Computed in float32, then rounded to `dtype`, or to that
    of `out`: a buffer to write to, which spares the page faults of a new one.
    """
    frames, channels, height, width = frames_FCHW.shape
    merge, size, depth = rules.merge_size, rules.patch_size, rules.temporal_patch_size
    assert height % rules.factor == 0, f"{height} rows of pixels are no multiple of {rules.factor}"
    assert width % rules.factor == 0, f"{width} columns of pixels are no multiple of {rules.factor}"
    t, h, w = math.ceil(frames / depth), height // rules.factor, width // rules.factor
    shape = (t * h * w * merge**2, rules.patch_dim)
    if out is None:
        out = torch.empty(shape, dtype=dtype)
    assert out.shape == shape, f"the buffer is {tuple(out.shape)}, not {shape}"
    # the reference folds the rescaling into mean and deviation, in float32 and by this product: the same bits
    scale = 1.0 / rules.rescale_factor
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] * scale for values in (rules.mean, rules.std))
    by_depth = out.view(t, h, w, merge, merge, channels, depth, size, size)
    for group, patches in zip(torch.split(frames_FCHW, depth), by_depth, strict=True):
        pixels = group.float().sub_(mean_C11).div_(std_C11).to(out.dtype)
        if len(pixels) == 1:
            pixels = pixels.expand(depth, -1, -1, -1)  # copies nothing
        elif missing := depth - len(pixels):
            pixels = torch.cat((pixels, pixels[-1:].expand(missing, -1, -1, -1)))
        cut = pixels.view(depth, channels, h, merge, size, w, merge, size)
        patches.copy_(cut.permute(2, 5, 3, 6, 1, 0, 4, 7))
    return out
