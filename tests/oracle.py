"""`transformers` on the same checkpoint, in one process: what every answer is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)

from common.models.config import load_config

# Below this the greedy choice is a matter of rounding, and equality of tokens would mean nothing.
MIN_MARGIN = 1e-3


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """One preprocessed item: `values` [patches, C*T*P*P], `grid` (t, h, w) in patches."""

    values: torch.Tensor
    grid: tuple[int, int, int]
    is_video: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Greedy tokens [n], the logits that they were chosen from [n, vocab], the smallest top-2 margin."""

    tokens: list[int]
    logits: torch.Tensor
    margin: float

    def clear_tokens(self, margin: float) -> int:
        """How many tokens come before the first choice that was closer than `margin`."""
        top = self.logits.topk(2, dim=-1).values
        close = ((top[:, 0] - top[:, 1]) <= margin).nonzero()
        return int(close[0]) if len(close) else len(self.tokens)


class Oracle:
    """The reference model in float32."""

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.config = load_config(model_dir)
        moe = self.config.architecture == "Qwen3VLMoeForConditionalGeneration"
        model_class = Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration
        self.model = model_class.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.placeholders = [self.config.image_token_id, self.config.video_token_id]

    @torch.inference_mode()
    def embed(self, pixels: Pixels) -> torch.Tensor:
        """[1 + levels, n, hidden]: main, then the deepstack levels."""
        output = self.model.model.visual(pixels.values, grid_thw=torch.tensor([pixels.grid]))
        return torch.stack([output.pooler_output, *output.deepstack_features])

    @torch.inference_mode()
    def greedy(self, prompt_ids: Sequence[int], items: Sequence[Pixels] = (), *, tokens: int) -> Answer:
        """`tokens` greedy tokens, end-of-text ignored, placeholders never chosen. Items in prompt order."""
        ids = torch.tensor([list(prompt_ids)])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if items:
            inputs["mm_token_type_ids"] = (ids == self.placeholders[0]).int() + 2 * (ids == self.placeholders[1]).int()
        for is_video, values, grids in (
            (False, "pixel_values", "image_grid_thw"),
            (True, "pixel_values_videos", "video_grid_thw"),
        ):
            if chosen := [item for item in items if item.is_video == is_video]:
                inputs[values] = torch.cat([item.values for item in chosen])
                inputs[grids] = torch.tensor([item.grid for item in chosen])
        generation = self.model.generation_config
        generation.eos_token_id = None
        output = self.model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            suppress_tokens=self.placeholders,
            output_scores=True,
            return_dict_in_generate=True,
        )
        logits = torch.cat(output.scores)
        top = logits.topk(2, dim=-1).values
        return Answer(
            tokens=output.sequences[0, len(prompt_ids) :].tolist(),
            logits=logits,
            margin=(top[:, 0] - top[:, 1]).min().item(),
        )
