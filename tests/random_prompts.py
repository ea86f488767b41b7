"""Prompts of random tokens with images and videos of random pixels, for a reference model and for ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from common.models.config import ModelConfig
from common.models.forward_batch import MediaInputs

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Media:
    """An image or a video of `grid` patches (time, height, width)."""

    kind: Literal["image", "video"]
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of placeholders: an image, or one temporal patch of a video."""

    token_offset: int
    rows: int
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids with their media. `pixel_values` are in prompt order, `[patches, patch_dim]`."""

    ids: torch.Tensor
    media: tuple[Media, ...]
    spans: tuple[Span, ...]
    pixel_values: tuple[torch.Tensor, ...]
    token_types: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """Indices of the placeholder tokens."""
        return self.token_types.nonzero()[:, 0]

    def media_inputs(self) -> MediaInputs | None:
        if not self.media:
            return None
        return MediaInputs(
            pixel_values=torch.cat(self.pixel_values),
            grid_thw=torch.tensor([item.grid for item in self.media]),
            rows=self.rows,
        )

    def reference_inputs(self) -> dict[str, Any]:
        """Arguments of the `forward` of transformers' whole models."""
        inputs: dict[str, Any] = {"input_ids": self.ids[None]}
        for kind, pixels, grids in (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ):
            chosen = [i for i, item in enumerate(self.media) if item.kind == kind]
            if chosen:
                inputs[pixels] = torch.cat([self.pixel_values[i] for i in chosen])
                inputs[grids] = torch.tensor([self.media[i].grid for i in chosen])
                inputs["mm_token_type_ids"] = self.token_types[None]
        return inputs


def make_prompt(config: ModelConfig, parts: Sequence[int | Media], *, seed: int = 0) -> Prompt:
    """A prompt of `parts`: an integer is that many tokens of text.

    A video's temporal patches have three tokens of text between them, where a processor writes the time.
    """
    generator = torch.Generator().manual_seed(seed)
    # below the special tokens, which are the last of the vocabulary
    text_ids = config.image_token_id - 32 if config.image_token_id else config.text.vocab_size
    ids: list[int] = []
    types: list[int] = []
    spans: list[Span] = []
    pixel_values: list[torch.Tensor] = []

    def text(count: int) -> None:
        ids.extend(torch.randint(text_ids, (count,), generator=generator).tolist())
        types.extend([0] * count)

    for part in parts:
        if isinstance(part, int):
            text(part)
            continue
        assert config.vision is not None
        t, h, w = part.grid
        rows = h * w // config.vision.merge_size**2
        pixel_values.append(torch.randn(t * h * w, config.vision.patch_dim, generator=generator))
        for frame in range(t):
            if frame > 0:
                text(3)
            spans.append(Span(token_offset=len(ids) + 1, rows=rows, grid=(1, h, w)))
            placeholder = config.image_token_id if part.kind == "image" else config.video_token_id
            ids += [config.vision_start_token_id, *[placeholder] * rows, config.vision_end_token_id]  # type: ignore[list-item]
            types += [0, *[1 if part.kind == "image" else 2] * rows, 0]
    return Prompt(
        ids=torch.tensor(ids),
        media=tuple(part for part in parts if isinstance(part, Media)),
        spans=tuple(spans),
        pixel_values=tuple(pixel_values),
        token_types=torch.tensor(types),
    )
