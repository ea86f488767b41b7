"""Qwen3-VL, dense: vision tower and decoder in one process, and the encode side's half of it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from common.models.config import ModelConfig
from common.models.decoder import LanguageHead
from common.models.deepstack import DeepStackDecoder
from common.models.forward_batch import ForwardBatch
from common.models.qwen3 import Qwen3Model
from common.models.vision import Qwen3_VisionTransformer


class Qwen3LLMModel(DeepStackDecoder, Qwen3Model):
    """The decoder of the whole vision-language model."""


class Qwen3VLForConditionalGeneration(nn.Module):
    """The whole model; with `vision_only` just the tower, as encode servers load it.

    Attributes:
        visual: the vision tower.
        model: the decoder, None if `vision_only`: it is then never constructed.
    """

    checkpoint_prefixes: ClassVar[dict[str, str]] = {"visual.": "model.visual.", "model.": "model.language_model."}

    def __init__(self, config: ModelConfig, *, vision_only: bool = False) -> None:
        super().__init__()
        assert config.vision is not None
        self.hidden_size = config.text.hidden_size
        self.visual = Qwen3_VisionTransformer(config.vision)
        self.model = None if vision_only else self.make_decoder(config)
        self.lm_head = None if vision_only else LanguageHead(config.text)

    def make_decoder(self, config: ModelConfig) -> DeepStackDecoder:
        return Qwen3LLMModel(config.text, config.levels)

    def separate_deepstack_embeds(self, merged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Splits what the tower makes, without a copy.

        Args:
            merged: `[n, hidden * (1 + levels)]`.

        Returns:
            main: `[n, hidden]`, to replace the placeholder rows of the input embeddings.
            deepstack: `[n, hidden * levels]`, to be added after the first decoder layers.
        """
        return merged[:, : self.hidden_size], merged[:, self.hidden_size :]

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: ForwardBatch) -> torch.Tensor:
        """Logits `[R, vocab]` float32, with the media of `forward_batch.media` encoded and placed.

        Args:
            input_ids: `[T]` int64; ids of placeholder rows do not matter, `media.rows` says which they are.
            positions: `[3, T]` int64.

        Raises:
            ValueError: the model is vision-only, or media does not make as many visual tokens as it has rows.
        """
        if self.model is None or self.lm_head is None:
            raise ValueError("a vision-only model has no decoder to run")
        embeds, deepstack = self.model.embed_tokens(input_ids), None
        if (media := forward_batch.media) is not None:
            main, levels = self.separate_deepstack_embeds(self.visual(media.pixel_values, media.grid_thw))
            if len(main) != len(media.rows):
                raise ValueError(f"media makes {len(main)} visual tokens for {len(media.rows)} placeholder rows")
            embeds = embeds.index_copy(0, media.rows, main)
            deepstack = embeds.new_zeros(len(embeds), levels.shape[1]).index_copy_(0, media.rows, levels)
        hidden = self.model(input_ids, positions, forward_batch, embeds, deepstack)
        logits: torch.Tensor = self.lm_head(hidden[forward_batch.logits_indices])
        return logits
