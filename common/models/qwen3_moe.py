"""Qwen3-MoE: text only, and with deepstack for the language side of disaggregation."""

from __future__ import annotations

from common.models.attention import Attention, QKNormAttention
from common.models.config import ModelConfig, TextConfig
from common.models.decoder import CausalLM
from common.models.deepstack import DeepStackCausalLM, DeepStackDecoder
from common.models.qwen2_moe import Qwen2MoeModel


class Qwen3MoeModel(Qwen2MoeModel):
    """The text-only stack: Qwen2-MoE's with per-head norms of queries and keys."""

    def make_attention(self, config: TextConfig) -> Attention:
        return QKNormAttention(config)


class Qwen3MoeForCausalLM(CausalLM):
    """Text-only inference."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(Qwen3MoeModel(config.text), config.text)


class Qwen3MoeModelWithDeepStack(DeepStackDecoder, Qwen3MoeModel):
    """The stack of the language side of disaggregation: it takes the deepstack levels that an encode server made."""


class Qwen3MoeForCausalLMWithDeepStack(DeepStackCausalLM):
    """What the language server loads of a Qwen3-VL-MoE checkpoint: the decoder and its head, no vision."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(Qwen3MoeModelWithDeepStack(config.text, config.levels), config.text)
