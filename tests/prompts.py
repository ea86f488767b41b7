"""Prompts made of token ids, with images and videos of random pixels: what the engine gets after tokenizing."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import torch

from common.models.config import ModelConfig
from common.pb import common_pb2
from common.pb import language_pb2 as pb
from tests.oracle import Pixels


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Placeholders expanded; `items` in prompt order, an item that occurs twice stands twice."""

    ids: list[int]
    spans: list[pb.Span]
    items: list[Pixels]

    @property
    def keys(self) -> list[bytes]:
        """Of the distinct items, in prompt order."""
        return list(dict.fromkeys(span.key for span in self.spans))


def media_key(pixels: Pixels) -> bytes:
    return hashlib.sha256(pixels.values.numpy().tobytes() + repr(pixels.grid).encode()).digest()


class PromptBuilder:
    """Random but reproducible text and pixels for one checkpoint."""

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        self._config = config
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def text(self, tokens: int) -> list[int]:
        return [self._random.randrange(300, 1000) for _ in range(tokens)]

    def image(self, height: int, width: int) -> Pixels:
        """`height` and `width` in patches."""
        return self._pixels((1, height, width), is_video=False)

    def video(self, frames: int, height: int, width: int) -> Pixels:
        """`frames` in temporal patches."""
        return self._pixels((frames, height, width), is_video=True)

    def _pixels(self, grid: tuple[int, int, int], *, is_video: bool) -> Pixels:
        vision = self._config.vision
        assert vision is not None
        count = grid[0] * grid[1] * grid[2]
        values = torch.randn(count, vision.patch_dim, generator=self._generator)
        return Pixels(values=values, grid=grid, is_video=is_video)

    def build(self, *parts: list[int] | Pixels) -> Prompt:
        """Text ids and items, in order."""
        ids: list[int] = []
        spans: list[pb.Span] = []
        for part in parts:
            if isinstance(part, Pixels):
                self._add(part, ids, spans)
            else:
                ids += part
        return Prompt(ids=ids, spans=spans, items=[part for part in parts if isinstance(part, Pixels)])

    def _add(self, item: Pixels, ids: list[int], spans: list[pb.Span]) -> None:
        """An image is one run of placeholders; a video has one for each temporal patch, a timestamp before it."""
        config = self._config
        assert config.vision is not None
        t, h, w = item.grid
        rows = h * w // config.vision.merge_size**2
        for frame in range(t):
            if item.is_video:
                ids += [300 + frame, 301, 302]
            ids.append(config.vision_start_token_id or 0)
            spans.append(
                pb.Span(
                    key=media_key(item),
                    row_offset=frame * rows,
                    rows=rows,
                    token_offset=len(ids),
                    grid=common_pb2.Grid(t=1, h=h, w=w),
                    item_rows=rows * t,
                )
            )
            ids += [(config.video_token_id if item.is_video else config.image_token_id) or 0] * rows
            ids.append(config.vision_end_token_id or 0)


def mixed_prompts(config: ModelConfig, *, seed: int = 0) -> dict[str, Prompt]:
    """One of each kind that an answer has to be right for."""
    make = PromptBuilder(config, seed=seed)
    first = make.image(6, 8)
    return {
        "text only": make.build(make.text(23)),
        "one image": make.build(make.text(5), first, make.text(9)),
        "three images": make.build(
            make.text(3), make.image(4, 6), make.text(7), make.image(8, 4), make.text(2), make.image(6, 6), make.text(8)
        ),
        "video": make.build(make.text(4), make.video(3, 4, 6), make.text(6)),
        "image and video": make.build(make.text(4), make.image(4, 4), make.text(3), make.video(2, 6, 4), make.text(5)),
        "second turn on the image": make.build(make.text(5), first, make.text(9), make.text(17)),
        "the same image twice": make.build(make.text(5), first, make.text(4), first, make.text(6)),
        "smallest image": make.build(make.text(6), make.image(2, 2), make.text(6)),
        "wide image": make.build(make.text(6), make.image(2, 60), make.text(6)),
        "tall image": make.build(make.text(6), make.image(60, 2), make.text(6)),
        "large image": make.build(make.text(6), make.image(28, 26), make.text(6)),
    }
