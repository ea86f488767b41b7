"""The inputs of the goldens, made by arithmetic, so that they are the same on every machine and under every version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def noise(seed: str, *shape: int) -> Pixels:
    """Bytes of SHAKE-256: no library's random generator is promised to stay the same."""
    count = int(np.prod(shape))
    return np.frombuffer(hashlib.shake_256(seed.encode()).digest(count), np.uint8).reshape(shape)


def picture(seed: str, height: int, width: int) -> Pixels:
    """`[height, width, 3]`: slopes, hard edges and some noise, so that every kind of resampling error shows."""
    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=-1)
    edges = ((x // 7 + y // 5) % 2 * 96)[..., None]
    return ((slopes * 5 + edges * 3 + noise(seed, height, width, 3).astype(np.int64)) // 8 % 256).astype(np.uint8)


def clip(seed: str, frames: int, height: int, width: int) -> Pixels:
    """`[frames, height, width, 3]`: a picture with a bright bar that moves over it."""
    pixels = np.stack([picture(seed, height, width)] * frames)
    for index in range(frames):
        left = index * (width - 8) // max(frames - 1, 1)
        pixels[index, :, left : left + 8] = (255, 255 - index % 256, index % 256)
    return pixels


@dataclass(frozen=True, kw_only=True)
class Video:
    """Frames and the rate they were taken at; `sampled`: as they are, or sampled by the model's rule."""

    frames: int
    height: int
    width: int
    fps: float
    sampled: bool = True


IMAGES = {
    "square": (224, 224),
    "photo": (480, 640),
    "exact": (256, 192),
    "smallest": (1, 1),
    "small": (33, 47),
    "largest": (512, 512),
    "over-largest": (900, 1200),
    "wide": (20, 3000),
    "tall": (1600, 8),
}
VIDEOS = {
    "short": Video(frames=9, height=64, width=96, fps=3.0),
    "odd": Video(frames=25, height=90, width=70, fps=5.0),
    "large": Video(frames=40, height=360, width=640, fps=8.0),
    "thumbnail": Video(frames=12, height=20, width=40, fps=4.0),
    "two-frames": Video(frames=2, height=64, width=64, fps=1.0),
    "still-frames": Video(frames=5, height=96, width=96, fps=2.0, sampled=False),
}
CLIP_FILE = "clip.mp4"  # 30 frames of 96 x 64 at 10 a second, H.264


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: texts, and media as "image:NAME", "video:NAME" or "file:NAME"."""

    role: str
    parts: tuple[str, ...]


def user(*parts: str) -> Turn:
    return Turn(role="user", parts=parts)


CASES: dict[str, tuple[Turn, ...]] = {
    **{f"image-{name}": (user(f"image:{name}", "What is in the picture?"),) for name in IMAGES},
    **{f"video-{name}": (user(f"video:{name}", "What happens?"),) for name in VIDEOS},
    "video-file": (user(f"file:{CLIP_FILE}", "Which way does the bar move?"),),
    "three-images": (
        Turn(role="system", parts=("You are a helpful assistant.",)),
        user("First", "image:square", "second", "image:small", "third", "image:exact", "Which one is largest?"),
    ),
    "image-and-video": (user("image:small", "video:short", "Is it the same?"),),
    "two-turns": (
        user("video:short", "image:exact", "Hello"),
        Turn(role="assistant", parts=("There is a bar.",)),
        user("Which colour?", "image:small"),
    ),
}


def is_media(part: str) -> bool:
    return part.startswith(("image:", "video:", "file:"))


def chat(turns: tuple[Turn, ...]) -> list[dict[str, object]]:
    """The messages as a chat template takes them."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "image" if part.startswith("image:") else "video"}
                if is_media(part)
                else {"type": "text", "text": part}
                for part in turn.parts
            ],
        }
        for turn in turns
    ]


def media(turns: tuple[Turn, ...]) -> list[str]:
    return [part for turn in turns for part in turn.parts if is_media(part)]
