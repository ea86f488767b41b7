"""Reads the media rules of a checkpoint from its processor files, and refuses what is not served by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.processing import ImageRules, VideoRules

RULE_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")

_IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
_VIDEO_PROCESSORS = ("Qwen3VLVideoProcessor",)
# Settings that would change the pixels: served only at the values that all Qwen3-VL checkpoints have.
_FIXED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True, None),
    "do_rescale": (True, None),
    "do_normalize": (True, None),
    "do_convert_rgb": (True, None),
    "do_center_crop": (False, None),
    "do_pad": (False, None),
    "do_sample_frames": (True, None),
    "resample": (3, None),  # bicubic
}


@dataclass(frozen=True, kw_only=True)
class MediaRules:
    """Both rules of a checkpoint; `video` is None where it has no video processor."""

    image: ImageRules
    video: VideoRules | None


def read_rules(model_dir: Path) -> MediaRules:
    """Rules of the checkpoint in a folder; raises as `parse_rules` does."""
    return parse_rules({name: (model_dir / name).read_bytes() for name in RULE_FILES if (model_dir / name).exists()})


def parse_rules(files: Mapping[str, bytes | str]) -> MediaRules:
    """Rules from a checkpoint's processor files, by name.

    `processor_config.json` as `transformers` 5 saves it, both processors nested, goes before the two files of published
    checkpoints.

    Raises:
        ValueError: a file or a setting is missing, or is one that is not served; the message names it.
    """
    parsed = {name: _parse(name, files[name]) for name in RULE_FILES if name in files}
    nested = parsed.get("processor_config.json", {})
    image = nested.get("image_processor") or parsed.get("preprocessor_config.json")
    video = nested.get("video_processor") or parsed.get("video_preprocessor_config.json")
    if image is None:
        raise ValueError("the checkpoint has no preprocessor_config.json")
    return MediaRules(image=image_rules(image), video=None if video is None else video_rules(video))


def image_rules(config: Mapping[str, Any]) -> ImageRules:
    """From preprocessor_config.json; top-level `min_pixels` and `max_pixels` go before `size`, as in the reference."""
    _check_processor(config, "image_processor_type", _IMAGE_PROCESSORS)
    size = dict(config.get("size") or {})
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if config.get(name) is not None:
            size[edge] = config[name]
    return ImageRules(**_patch_settings({**config, "size": size}, "preprocessor_config.json"))


def video_rules(config: Mapping[str, Any]) -> VideoRules:
    """From video_preprocessor_config.json; what it leaves out is as in `Qwen3VLVideoProcessor`."""
    _check_processor(config, "video_processor_type", _VIDEO_PROCESSORS)
    return VideoRules(
        **_patch_settings(config, "video_preprocessor_config.json"),
        fps=config.get("fps", 2),
        num_frames=config.get("num_frames"),
        min_frames=config.get("min_frames", 4),
        max_frames=config.get("max_frames", 768),
        cap_pixels_per_frame=bool(config.get("cap_pixels_per_frame")),
        max_video_tokens=config.get("max_video_tokens", 768),
    )


def _parse(name: str, content: bytes | str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is not a JSON object")
    return parsed


def _check_processor(config: Mapping[str, Any], key: str, known: tuple[str, ...]) -> None:
    kind = config.get(key)
    if kind not in known:
        raise ValueError(f"{key} {kind!r} is not served; known: {', '.join(known)}")
    for name, values in _FIXED.items():
        if name in config and config[name] not in values:
            raise ValueError(f"{name}={config[name]!r} in the settings of {kind} is not served")


def _patch_settings(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        return {
            "patch_size": int(config["patch_size"]),
            "temporal_patch_size": int(config["temporal_patch_size"]),
            "merge_size": int(config["merge_size"]),
            "min_pixels": int(config["size"]["shortest_edge"]),
            "max_pixels": int(config["size"]["longest_edge"]),
            "mean": tuple(float(value) for value in config["image_mean"]),
            "std": tuple(float(value) for value in config["image_std"]),
            "rescale_factor": float(config.get("rescale_factor") or 1 / 255),
        }
    except KeyError as error:
        raise ValueError(f"{source} has no {error.args[0]}") from error
