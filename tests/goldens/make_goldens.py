"""Makes processing.json with the reference processor, where that runs: `transformers`, a working torchvision, PyAV.

    HF_HUB_OFFLINE=1 PYTHONPATH=. PYTHON tests/goldens/make_goldens.py

PYTHON is an environment of its own with the CPU build of torch, torchvision, transformers, av and pillow. Wheels of
torchvision for CUDA do beside CPU torch if the operators `nms` and `qnms` are declared at the end of
torchvision/extension.py (`torch.library.Library("torchvision", "DEF").define(...)`): the processors use neither.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image
from transformers import AutoConfig, AutoProcessor, Qwen3VLMoeModel
from transformers.video_utils import VideoMetadata, load_video

from tests.goldens.inputs import CASES, CLIP_FILE, IMAGES, VIDEOS, Turn, chat, clip, media, picture

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "deploy" / "demo" / "model"
SAMPLES = 12


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "20", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        # smooth, so that the file stays small
        y, x = np.mgrid[0:64, 0:96]
        for index in range(30):
            frame = np.stack([x * 2, y * 3, np.full_like(x, index * 8)], axis=-1).astype(np.uint8)
            frame[:, index * 3 : index * 3 + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def load(processor: Any, part: str) -> tuple[Any, VideoMetadata | None]:
    """What the processor takes for a medium, sampled already if it is a video."""
    kind, name = part.split(":")
    if kind == "image":
        return Image.fromarray(picture(name, *IMAGES[name])), None
    sample = processor.video_processor.sample_frames
    if kind == "file":
        return load_video(
            str(HERE / name), backend="pyav", sample_indices_fn=partial(sample, fps=None, num_frames=None)
        )
    video = VIDEOS[name]
    pixels = clip(name, video.frames, video.height, video.width)
    metadata = VideoMetadata(total_num_frames=video.frames, fps=video.fps)
    metadata.frames_indices = sample(metadata) if video.sampled else np.arange(video.frames)
    return pixels[metadata.frames_indices], metadata


def describe(pixel_values: torch.Tensor, grid: list[int]) -> dict[str, Any]:
    flat = pixel_values.float().contiguous().numpy().ravel()
    at = np.linspace(0, flat.size - 1, SAMPLES).astype(int)
    return {
        "grid": grid,
        "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
        "samples": [round(float(value), 6) for value in flat[at]],
    }


def golden(processor: Any, model: Any, turns: tuple[Turn, ...]) -> dict[str, Any]:
    parts = media(turns)
    loaded = [load(processor, part) for part in parts]
    images = [item for item, metadata in loaded if metadata is None]
    videos = [(item, metadata) for item, metadata in loaded if metadata is not None]
    text = processor.apply_chat_template(chat(turns), tokenize=False, add_generation_prompt=True)
    batch = processor(
        text=[text],
        images=images or None,
        videos=[item for item, _ in videos] or None,
        video_metadata=[metadata for _, metadata in videos] or None,
        do_sample_frames=False,
        return_metadata=True,
        return_tensors="pt",
    )
    positions, delta = model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch.get("image_grid_thw"),
        video_grid_thw=batch.get("video_grid_thw"),
        attention_mask=batch["attention_mask"],
    )
    return {
        "text": text,
        "media": _media(processor, batch, parts),
        "input_ids": batch["input_ids"][0].tolist(),
        "positions": positions[:, 0].tolist(),
        "delta": int(delta),
    }


def _media(processor: Any, batch: Any, parts: list[str]) -> list[dict[str, Any]]:
    """Pixels and grid of each medium in order of the prompt; the batch has images and videos apart."""
    queues = {}
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        if grids in batch:
            sizes = batch[grids].prod(-1).tolist()
            queues[kind] = list(zip(batch[pixels].split(sizes), batch[grids].tolist(), strict=True))
    metadata = list(batch.get("video_metadata") or [])
    described = []
    for part in parts:
        kind = "image" if part.startswith("image:") else "video"
        entry = describe(*queues[kind].pop(0))
        if kind == "video":
            of_video = metadata.pop(0)
            indices = [int(index) for index in of_video.frames_indices]
            size = processor.video_processor.temporal_patch_size
            entry["indices"] = list(indices)
            entry["timestamps"] = processor._calculate_timestamps(indices, of_video.fps, size)
        described.append(entry)
    return described


def main() -> None:
    if not (HERE / CLIP_FILE).exists():
        write_clip(HERE / CLIP_FILE)
    processor = AutoProcessor.from_pretrained(MODEL)
    with torch.device("meta"):
        model = Qwen3VLMoeModel(AutoConfig.from_pretrained(MODEL))
    goldens = {
        "versions": {
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "av": av.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
        "processors": [type(processor.image_processor).__name__, type(processor.video_processor).__name__],
        "cases": {name: golden(processor, model, turns) for name, turns in CASES.items()},
    }
    (HERE / "processing.json").write_text(json.dumps(goldens, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
