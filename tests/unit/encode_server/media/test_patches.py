from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from common.processing import ImageRules
from encode_server.media.patches import patchify, resize
from tests.goldens.inputs import picture

RULES = ImageRules(
    patch_size=16,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=4096,
    max_pixels=1 << 20,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rescale_factor=1 / 255,
)
PIL_PROCESSOR = Qwen2VLImageProcessorPil(
    size={"shortest_edge": RULES.min_pixels, "longest_edge": RULES.max_pixels},
    patch_size=16,
    image_mean=list(RULES.mean),
    image_std=list(RULES.std),
)


def test_patches_of_an_image_that_needs_no_resize() -> None:
    pixels = picture("patches", 96, 128)
    reference = PIL_PROCESSOR(pixels, return_tensors="np")
    patches = patchify(resize(pixels, 96, 128)[None], RULES)
    # the Pillow processor rescales and normalises in two steps of float32, this and torchvision's in one
    np.testing.assert_allclose(patches.numpy(), reference["pixel_values"], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(130, 100), (33, 47), (700, 500)])
def test_resize_stays_close_to_pillows(height: int, width: int) -> None:
    pixels = picture("resize", height, width)
    reference = PIL_PROCESSOR(pixels, return_tensors="np")["pixel_values"]
    patches = patchify(resize(pixels, *RULES.resized(height, width))[None], RULES).numpy()
    steps = np.abs(patches - reference) * min(RULES.std) * 255
    assert steps.max() <= 2.5
    assert (steps > 0.5).mean() < 0.02


def test_where_each_pixel_goes() -> None:
    """By the definition: patches in merge blocks, then channel, frame, row, column within one."""
    frames = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = patchify(frames, RULES)
    assert patches.shape == (2 * 4 * 6, 3 * 2 * 16 * 16)
    index = 0
    for t in range(2):
        for block_y in range(2):
            for block_x in range(3):
                for y in range(2):
                    for x in range(2):
                        top, left = (block_y * 2 + y) * 16, (block_x * 2 + x) * 16
                        cut = frames[2 * t : 2 * t + 2, :, top : top + 16, left : left + 16].transpose(0, 1).float()
                        mean, std = (torch.tensor(v)[:, None, None, None] for v in (RULES.mean, RULES.std))
                        expected = (cut / 255 - mean) / std
                        torch.testing.assert_close(patches[index], expected.flatten(), atol=1e-5, rtol=0)
                        index += 1


@pytest.mark.parametrize(("frames", "as_if"), [(1, (0, 0)), (3, (0, 1, 2, 2)), (5, (0, 1, 2, 3, 4, 4))])
def test_a_missing_frame_repeats_the_last(frames: int, as_if: tuple[int, ...]) -> None:
    pixels = torch.randint(0, 256, (frames, 3, 32, 64), dtype=torch.uint8)
    assert torch.equal(patchify(pixels, RULES), patchify(pixels[list(as_if)], RULES))


def test_into_a_buffer() -> None:
    pixels = resize(picture("buffer", 50, 70), 64, 64)[None]
    buffer = torch.full((20, RULES.patch_dim), torch.nan)
    written = patchify(pixels, RULES, out=buffer[2:18])
    assert written.data_ptr() == buffer[2].data_ptr()
    assert torch.equal(buffer[2:18], patchify(pixels, RULES))
    assert buffer[:2].isnan().all()
    assert buffer[18:].isnan().all()


def test_in_another_dtype() -> None:
    pixels = resize(picture("dtype", 50, 70), 64, 64)[None]
    assert torch.equal(patchify(pixels, RULES, dtype=torch.bfloat16), patchify(pixels, RULES).bfloat16())
