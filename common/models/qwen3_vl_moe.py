"""Qwen3-VL-MoE: vision tower and MoE decoder in one process, and the encode side's half of it."""

from __future__ import annotations

from common.models.config import ModelConfig
from common.models.deepstack import DeepStackDecoder
from common.models.qwen3_moe import Qwen3MoeModel
from common.models.qwen3_vl import Qwen3VLForConditionalGeneration


class Qwen3MoeLLMModel(DeepStackDecoder, Qwen3MoeModel):
    """The decoder of the whole vision-language model."""


class Qwen3VLMoeForConditionalGeneration(Qwen3VLForConditionalGeneration):
    """The dense model with a sparse decoder; the vision tower is the same."""

    def make_decoder(self, config: ModelConfig) -> DeepStackDecoder:
        return Qwen3MoeLLMModel(config.text, config.levels)
