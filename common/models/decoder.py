"""The decoder stack that all language models here share. Text only: deepstack is in `deepstack`."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from common.models.attention import Attention, AttentionPlan, KVCache, plan_attention
from common.models.config import TextConfig
from common.models.forward_batch import ForwardBatch
from common.models.layers import Embedding, Linear, RMSNorm
from common.models.rotary import RotaryEmbedding, Rotation


class DecoderLayer(nn.Module):
    """Attention, then an MLP (dense or sparse), each behind a norm and added to the residual in the model's dtype."""

    def __init__(self, config: TextConfig, attention: Attention, mlp: nn.Module) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: torch.Tensor, rotation: Rotation, plan: AttentionPlan, kv_cache: KVCache) -> torch.Tensor:
        """`[T, hidden]` to the same shape."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, plan, kv_cache)
        result: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return result


class Decoder(nn.Module):
    """Token embedding, layers, final norm. A subclass makes the layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.make_layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config.head_dim, config.rope_theta, config.mrope_section)

    def make_layer(self, config: TextConfig, index: int) -> DecoderLayer:
        raise NotImplementedError

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One step.

        Args:
            input_ids: `[T]` int64; not looked at if `input_embeds` is given.
            positions: `[3, T]` or `[T]` int64.
            forward_batch: the step's sequences and their cache.
            input_embeds: `[T, hidden]`.

        Returns:
            Normalised hidden states `[T, hidden]`.
        """
        hidden = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        rotation, plan = self.prepare(positions, forward_batch, hidden.dtype)
        for layer, kv_cache in zip(self.layers, forward_batch.kv_caches, strict=True):
            hidden = layer(hidden, rotation, plan, kv_cache)
        normalized: torch.Tensor = self.norm(hidden)
        return normalized

    def prepare(
        self, positions: torch.Tensor, forward_batch: ForwardBatch, dtype: torch.dtype
    ) -> tuple[Rotation, AttentionPlan]:
        """What all layers of a step share."""
        return self.rotary(positions, dtype), plan_attention(forward_batch, dtype)


class LanguageHead(Linear):
    """Hidden states to logits. A tied head takes the token embedding as its weight."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config.hidden_size, config.vocab_size)
        self.tied = config.tie_word_embeddings

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, hidden]` to `[R, vocab]` float32."""
        return super().forward(hidden).float()


class CausalLM(nn.Module):
    """A text-only decoder with its head. A subclass says which decoder.

    `checkpoint_prefixes` maps the beginnings of our parameters' names to those in a checkpoint.
    """

    checkpoint_prefixes: ClassVar[dict[str, str]] = {}

    def __init__(self, model: Decoder, config: TextConfig) -> None:
        super().__init__()
        self.model = model
        self.lm_head = LanguageHead(config)

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
