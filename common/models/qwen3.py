"""Qwen3, dense: text only, and with deepstack for the language side of disaggregation."""

from __future__ import annotations

from common.models.attention import QKNormAttention
from common.models.config import ModelConfig, TextConfig
from common.models.decoder import CausalLM, Decoder, DecoderLayer
from common.models.deepstack import DeepStackCausalLM, DeepStackDecoder
from common.models.layers import GatedMLP


class Qwen3Model(Decoder):
    """The text-only stack: dense layers with per-head norms of queries and keys."""

    def make_layer(self, config: TextConfig, index: int) -> DecoderLayer:
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        return DecoderLayer(config, QKNormAttention(config), mlp)


class Qwen3ForCausalLM(CausalLM):
    """Text-only inference."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(Qwen3Model(config.text), config.text)


class Qwen3ModelWithDeepStack(DeepStackDecoder, Qwen3Model):
    """The stack of the language side of disaggregation: it takes the deepstack levels that an encode server made."""


class Qwen3ForCausalLMWithDeepStack(DeepStackCausalLM):
    """What the language server loads of a Qwen3-VL checkpoint: the decoder and its head, no vision."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(Qwen3ModelWithDeepStack(config.text, config.levels), config.text)
