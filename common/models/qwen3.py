"""Qwen3, dense: text only, and with deepstack for the language side of disaggregation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from common.models.attention import QKNormAttention
from common.models.config import ModelConfig, TextConfig
from common.models.decoder import Decoder, DecoderLayer, LanguageHead
from common.models.deepstack import DeepStackDecoder
from common.models.forward_batch import ForwardBatch
from common.models.layers import GatedMLP


class Qwen3Model(Decoder):
    """The text-only stack: dense layers with per-head norms of queries and keys."""

    def make_layer(self, config: TextConfig, index: int) -> DecoderLayer:
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        return DecoderLayer(config, QKNormAttention(config), mlp)


class Qwen3ForCausalLM(nn.Module):
    """Text-only inference."""

    checkpoint_prefixes: ClassVar[dict[str, str]] = {}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Qwen3Model(config.text)
        self.lm_head = LanguageHead(config.text)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 to `[T, hidden]`."""
        embeds: torch.Tensor = self.model.embed_tokens(input_ids)
        return embeds

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits `[R, vocab]` float32 of the rows in `forward_batch.logits_indices`; arguments as `Decoder.forward`."""
        hidden = self.model(input_ids, positions, forward_batch, input_embeds)
        logits: torch.Tensor = self.lm_head(hidden[forward_batch.logits_indices])
        return logits


class Qwen3ModelWithDeepStack(DeepStackDecoder, Qwen3Model):
    """The stack of the language side of disaggregation: it takes the deepstack levels that an encode server made."""


class Qwen3ForCausalLMWithDeepStack(nn.Module):
    """What the language server loads of a Qwen3-VL checkpoint: the decoder and its head, no vision."""

    checkpoint_prefixes: ClassVar[dict[str, str]] = {"model.": "model.language_model."}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Qwen3ModelWithDeepStack(config.text, config.levels)
        self.lm_head = LanguageHead(config.text)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 to `[T, hidden]`; the caller writes visual rows over it."""
        embeds: torch.Tensor = self.model.embed_tokens(input_ids)
        return embeds

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        input_deepstack_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits `[R, vocab]` float32 of the rows in `forward_batch.logits_indices`.

        Arguments and errors as `DeepStackDecoder.forward`.
        """
        hidden = self.model(input_ids, positions, forward_batch, input_embeds, input_deepstack_embeds)
        logits: torch.Tensor = self.lm_head(hidden[forward_batch.logits_indices])
        return logits
