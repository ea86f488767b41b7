"""DeepStack (arXiv 2406.04334): features of early vision blocks, added to the hidden states of early decoder layers.

Only the vision-language classes have it. `input_deepstack_embeds` is `[T, hidden * levels]`; level i is its columns
`i * hidden` to `(i + 1) * hidden`, added after decoder layer i. Rows without vision hold zeros there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from common.models.config import TextConfig
from common.models.decoder import Decoder, LanguageHead
from common.models.forward_batch import ForwardBatch


def add_deepstack_level(hidden: torch.Tensor, input_deepstack_embeds: torch.Tensor, level: int) -> torch.Tensor:
    """`hidden [T, hidden]`, already rounded to its dtype, plus the rows of one level in the same dtype."""
    size = hidden.shape[1]
    return hidden + input_deepstack_embeds[:, level * size : (level + 1) * size].to(hidden.dtype)


class DeepStackDecoder(Decoder):
    """A decoder that takes deepstack. Combined with a text-only stack, whose layers it runs."""

    def __init__(self, config: TextConfig, levels: int) -> None:
        super().__init__(config)
        self.levels = levels

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        input_deepstack_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One step, as `Decoder.forward`, with deepstack if any row has it.

        Args:
            input_deepstack_embeds: `[T, hidden * levels]`, or None for a step without visual rows.

        Raises:
            ValueError: `input_deepstack_embeds` is of another shape.
        """
        hidden = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        if input_deepstack_embeds is not None:
            expected = (len(hidden), hidden.shape[1] * self.levels)
            if input_deepstack_embeds.shape != expected:
                shape = tuple(input_deepstack_embeds.shape)
                raise ValueError(f"input_deepstack_embeds has shape {shape}, expected {expected}")
        rotation, plan = self.prepare(positions, forward_batch, hidden.dtype)
        for i, (layer, kv_cache) in enumerate(zip(self.layers, forward_batch.kv_caches, strict=True)):
            hidden = layer(hidden, rotation, plan, kv_cache)
            if input_deepstack_embeds is not None and i < self.levels:
                hidden = add_deepstack_level(hidden, input_deepstack_embeds, i)
        normalized: torch.Tensor = self.norm(hidden)
        return normalized


class DeepStackCausalLM(nn.Module):
    """A decoder that takes deepstack, with its head and without vision. A subclass says which decoder.

    `checkpoint_prefixes` maps the beginnings of our parameters' names to those in a checkpoint.
    """

    checkpoint_prefixes: ClassVar[dict[str, str]] = {"model.": "model.language_model."}

    def __init__(self, model: DeepStackDecoder, config: TextConfig) -> None:
        super().__init__()
        self.model = model
        self.lm_head = LanguageHead(config)

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
