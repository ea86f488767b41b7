"""RGB frames to the patches of the vision tower: resize, normalise, cut.

Legend: F frames, H W pixels, N patches, C channels, T P P the extent of a patch in frames and pixels.

Published Qwen3-VL checkpoints name torchvision's processor, which is what their users get, and whose resize is torch's
own bicubic one on uint8. That is called here in the same way, so the values are the same bits. The Pillow processor that
`transformers` falls back to without torchvision differs from both in under 1 % of the values, by a step or two of 1/255.
"""

from __future__ import annotations

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


def patchify(frames_FCHW: torch.Tensor, rules: PatchRules, out: torch.Tensor | None = None) -> torch.Tensor:
    """`[N, C*T*P*P]` float32 of uint8 frames whose sides are multiples of `rules.factor`.

    Patches of one merged token follow each other. Frames that are missing in the last temporal patch repeat the last
    one; so an image, one frame, fills its patches with itself. `out` is a buffer to write to instead of a new one.
    """
    frames, channels, height, width = frames_FCHW.shape
    merge, size, depth = rules.merge_size, rules.patch_size, rules.temporal_patch_size
    assert height % rules.factor == 0, f"{height} rows of pixels are no multiple of {rules.factor}"
    assert width % rules.factor == 0, f"{width} columns of pixels are no multiple of {rules.factor}"
    if missing := -frames % depth:
        last = frames_FCHW[-1:]
        frames_FCHW = (
            last.expand(depth, -1, -1, -1)  # copies nothing
            if frames == 1
            else torch.cat((frames_FCHW, last.expand(missing, -1, -1, -1)))
        )
    t, h, w = (frames + missing) // depth, height // rules.factor, width // rules.factor
    patches = frames_FCHW.view(t, depth, channels, h, merge, size, w, merge, size)
    patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # t, h, w, merge, merge, C, T, P, P
    count = patches[..., 0, 0, 0, 0].numel()
    if out is None:
        out = torch.empty(count, rules.patch_dim)
    assert out.shape == (count, rules.patch_dim), f"the buffer is {tuple(out.shape)}, not {(count, rules.patch_dim)}"
    out.view(patches.shape).copy_(patches)
    # the reference folds the rescaling into mean and deviation, in float32; so the bits are the same
    scale = 1.0 / rules.rescale_factor
    by_channel = out.view(count, channels, -1)
    by_channel.sub_((torch.tensor(rules.mean) * scale)[:, None])
    by_channel.div_((torch.tensor(rules.std) * scale)[:, None])
    return out
