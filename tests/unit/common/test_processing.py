from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as image_smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as video_smart_resize

from common.pb import common_pb2 as pb
from common.processing import Grid, ImageRules, MediaOptions, VideoRules, timestamp_text, video_placeholder_text
from common.processor_config import read_rules

RULES = read_rules(Path(__file__).parents[3] / "deploy" / "demo" / "model")
IMAGE = RULES.image
assert RULES.video is not None
VIDEO = RULES.video
# of the published checkpoints
LARGE_IMAGE = replace(IMAGE, min_pixels=65536, max_pixels=16777216)
LARGE_VIDEO = replace(VIDEO, min_pixels=4096, max_pixels=25165824, max_frames=768)

sides = st.integers(min_value=1, max_value=9000)


@given(height=sides, width=sides, rules=st.sampled_from([IMAGE, LARGE_IMAGE]))
@settings(max_examples=1500, deadline=None)
def test_images_are_resized_as_by_the_reference(height: int, width: int, rules: ImageRules) -> None:
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(ValueError, match="over 200 times the other"):
            rules.resized(height, width)
        return
    reference = image_smart_resize(height, width, rules.factor, rules.min_pixels, rules.max_pixels)
    assert rules.resized(height, width) == reference
    assert rules.grid(height, width) == Grid(t=1, h=reference[0] // 16, w=reference[1] // 16)


@given(frames=st.integers(2, 768), height=sides, width=sides, rules=st.sampled_from([VIDEO, LARGE_VIDEO]))
@settings(max_examples=1500, deadline=None)
def test_videos_are_resized_as_by_the_reference(frames: int, height: int, width: int, rules: VideoRules) -> None:
    try:
        reference = video_smart_resize(
            frames, height, width, 2, rules.factor, min_pixels=rules.min_pixels, max_pixels=rules.max_pixels
        )
    except ValueError:
        with pytest.raises(ValueError, match="over 200 times the other"):
            rules.resized(frames, height, width)
        return
    assert rules.resized(frames, height, width) == reference
    assert rules.grid(frames, height, width).t == math.ceil(frames / 2)


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 1080, 1920), (64, 1080, 1920), (768, 720, 1280)])
def test_pixels_per_frame_can_be_capped(frames: int, height: int, width: int) -> None:
    rules = replace(LARGE_VIDEO, cap_pixels_per_frame=True)
    share = min(768 * 32**2, 25165824 // frames) * frames
    assert rules.resized(frames, height, width) == video_smart_resize(
        frames, height, width, 2, 32, min_pixels=4096, max_pixels=share
    )


def test_one_frame_counts_as_a_whole_temporal_patch() -> None:
    assert VIDEO.resized(1, 64, 64) == VIDEO.resized(2, 64, 64)
    assert VIDEO.grid(1, 64, 64).t == 1


@given(
    total=st.integers(1, 5000),
    video_fps=st.sampled_from([1.0, 10.0, 23.976, 24.0, 29.97, 30.0, 59.94, 0.5]),
    fps=st.sampled_from([None, 0.5, 1, 2, 4.5]),
    num_frames=st.sampled_from([None, 1, 2, 7, 64]),
)
@settings(max_examples=600, deadline=None)
def test_frames_are_sampled_as_by_the_reference(
    total: int, video_fps: float, fps: float | None, num_frames: int | None
) -> None:
    if fps is not None and num_frames is not None:
        fps = None
    rules = replace(VIDEO, fps=fps, num_frames=num_frames)
    reference = Qwen3VLVideoProcessor.sample_frames(
        SimpleNamespace(fps=fps, num_frames=num_frames, min_frames=rules.min_frames, max_frames=rules.max_frames),
        SimpleNamespace(total_num_frames=total, fps=video_fps),
        num_frames=num_frames,
        fps=fps,
    )
    assert rules.sample(total, video_fps) == reference.tolist()


def test_timestamps_are_means_of_a_patchs_frames() -> None:
    assert VIDEO.timestamps([0, 12, 24, 36], 24.0) == [0.25, 1.25]
    assert VIDEO.timestamps([0, 12, 24], 24.0) == [0.25, 1.0], "the last frame stands for the missing one"
    assert VIDEO.timestamps(range(2), 2) == [0.25]


def test_placeholder_text() -> None:
    assert timestamp_text(1.25) == "<1.2 seconds>"
    assert video_placeholder_text([0.25, 10.0], 2) == (
        "<0.2 seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
        "<10.0 seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    )


def test_rows_of_a_grid() -> None:
    assert Grid(t=3, h=4, w=6).patches == 72
    assert Grid(t=3, h=4, w=6).rows(2) == 18


class TestOptions:
    def test_override(self) -> None:
        image = IMAGE.override(MediaOptions(min_pixels=20000, max_pixels=40000))
        assert (image.min_pixels, image.max_pixels) == (20000, 40000)
        video = VIDEO.override(MediaOptions(fps=4.0, min_frames=2, max_frames=8))
        assert (video.fps, video.min_frames, video.max_frames) == (4.0, 2, 8)
        assert IMAGE.override(MediaOptions()) == IMAGE
        assert VIDEO.override(MediaOptions()) == VIDEO

    def test_a_number_of_frames_replaces_the_rate(self) -> None:
        video = VIDEO.override(MediaOptions(num_frames=6))
        assert (video.fps, video.num_frames) == (None, 6)
        assert len(video.sample(100, 10.0)) == 6

    def test_a_maximum_takes_the_minimum_with_it(self) -> None:
        assert IMAGE.override(MediaOptions(max_pixels=4096)).resized(500, 500) == (64, 64)
        assert len(VIDEO.override(MediaOptions(max_frames=2)).sample(100, 10.0)) == 2

    @pytest.mark.parametrize(
        "options",
        [
            MediaOptions(max_pixels=IMAGE.max_pixels + 1),
            MediaOptions(min_pixels=IMAGE.max_pixels + 1),
            MediaOptions(min_pixels=5000, max_pixels=4000),
            MediaOptions(fps=1.0),
            MediaOptions(num_frames=4),
            MediaOptions(min_frames=4),
            MediaOptions(max_frames=4),
        ],
    )
    def test_what_an_image_can_not_have(self, options: MediaOptions) -> None:
        with pytest.raises(ValueError):
            IMAGE.override(options)

    @pytest.mark.parametrize(
        "options",
        [
            MediaOptions(max_pixels=VIDEO.max_pixels + 1),
            MediaOptions(num_frames=VIDEO.max_frames + 1),
            MediaOptions(max_frames=VIDEO.max_frames + 1),
            MediaOptions(min_frames=9, max_frames=8),
        ],
    )
    def test_what_a_video_can_not_have(self, options: MediaOptions) -> None:
        with pytest.raises(ValueError):
            VIDEO.override(options)

    @pytest.mark.parametrize("values", [{"min_pixels": 0}, {"max_frames": 0}, {"fps": 0.0}, {"fps": float("nan")}])
    def test_nonsense(self, values: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(values))):
            MediaOptions(**values)

    def test_rate_and_number_exclude_each_other(self) -> None:
        with pytest.raises(ValueError, match="exclude"):
            MediaOptions(fps=2.0, num_frames=4)

    def test_from_wire(self) -> None:
        assert MediaOptions.from_wire(pb.MediaOptions()) == MediaOptions()
        assert MediaOptions.from_wire(pb.MediaOptions(max_pixels=5, fps=1.5)) == MediaOptions(max_pixels=5, fps=1.5)
        with pytest.raises(ValueError, match="max_pixels"):  # given, and zero: not the same as absent
            MediaOptions.from_wire(pb.MediaOptions(max_pixels=0))


def test_it_needs_neither_torch_nor_numpy_nor_pillow() -> None:
    """The router and the fakes run without them."""
    modules = "common.processing, common.processor_config, encode_server.media.headers, encode_server.media.limits"
    heavy = ("torch", "numpy", "PIL", "av")
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {heavy}))"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
