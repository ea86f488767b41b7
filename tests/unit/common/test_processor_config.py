from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.processor_config import image_rules, parse_rules, read_rules, video_rules

MODEL = Path(__file__).parents[3] / "deploy" / "demo" / "model"
PATCHES = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
# as published
IMAGE: dict[str, Any] = {
    **PATCHES,
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
}
VIDEO: dict[str, Any] = {
    **PATCHES,
    "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "video_processor_type": "Qwen3VLVideoProcessor",
}


def test_published_files() -> None:
    rules = parse_rules(
        {"preprocessor_config.json": json.dumps(IMAGE), "video_preprocessor_config.json": json.dumps(VIDEO)}
    )
    assert (rules.image.min_pixels, rules.image.max_pixels, rules.image.factor) == (65536, 16777216, 32)
    assert rules.image.patch_dim == 1536
    assert rules.image.rescale_factor == 1 / 255
    assert rules.video is not None
    assert (rules.video.fps, rules.video.min_frames, rules.video.max_frames) == (2, 4, 768)
    assert not rules.video.cap_pixels_per_frame


def test_the_demo() -> None:
    rules = read_rules(MODEL)
    assert rules.image.max_pixels == 512 * 512
    assert rules.video is not None
    assert rules.video.max_frames == 64


def test_a_checkpoint_without_video() -> None:
    assert parse_rules({"preprocessor_config.json": json.dumps(IMAGE)}).video is None


def test_both_nested_in_one_file_go_first() -> None:
    nested = {
        "image_processor": {**IMAGE, "size": {"longest_edge": 4096, "shortest_edge": 1024}},
        "video_processor": VIDEO,
    }
    rules = parse_rules(
        {"processor_config.json": json.dumps(nested), "preprocessor_config.json": json.dumps(IMAGE).encode()}
    )
    assert rules.image.max_pixels == 4096
    assert rules.video is not None


def test_pixel_limits_of_their_own_go_before_the_size() -> None:
    rules = image_rules({**IMAGE, "min_pixels": 3136, "max_pixels": 12845056})
    assert (rules.min_pixels, rules.max_pixels) == (3136, 12845056)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "SiglipImageProcessor"),
        ({"image_processor_type": None}, "image_processor_type"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"resample": 2}, "resample"),
        ({"size": {"height": 224, "width": 224}}, "shortest_edge"),
        ({"size": {"shortest_edge": 5000, "longest_edge": 4000}}, "5000"),
    ],
)
def test_what_is_not_served_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        image_rules({**IMAGE, **change})


def test_missing_settings_are_named() -> None:
    with pytest.raises(ValueError, match="patch_size"):
        image_rules({key: value for key, value in IMAGE.items() if key != "patch_size"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"video_processor_type": "Qwen2VLVideoProcessor"}, "Qwen2VLVideoProcessor"),
        ({"do_sample_frames": False}, "do_sample_frames"),
        ({"num_frames": 8}, "exclude"),
        ({"min_frames": 9, "max_frames": 4}, "min_frames"),
    ],
)
def test_videos_too(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        video_rules({**VIDEO, **change})


@pytest.mark.parametrize(
    ("content", "named"), [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"\xff", "not JSON")]
)
def test_broken_files(content: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=f"preprocessor_config.json is {named}"):
        parse_rules({"preprocessor_config.json": content})


def test_no_files() -> None:
    with pytest.raises(ValueError, match="the checkpoint has no preprocessor"):
        parse_rules({})
