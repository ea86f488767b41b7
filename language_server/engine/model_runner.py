"""Everything that happens on the device: the forward of a step, its visual rows, and the draw."""

from __future__ import annotations

from typing import Protocol

import torch

from common.embeddings import EmbeddingLayout
from common.media_key import MediaKey
from common.models.forward_batch import ForwardBatch
from language_server.engine.batch import StepInputs, VisualRows, build_inputs
from language_server.engine.kv_cache import KVCache
from language_server.engine.sampler import Sampler
from language_server.engine.scheduler import Schedule


class DeepStackModel(Protocol):
    """What the runner needs of `Qwen3MoeForCausalLMWithDeepStack` and its dense twin."""

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor: ...

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        input_deepstack_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


class TextModel(Protocol):
    """What it needs of a text-only model."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


class EmbeddingStore(Protocol):
    """Where received items lie."""

    def tensor(self, key: MediaKey) -> tuple[EmbeddingLayout, torch.Tensor]:
        """The item's layout, and [1 + levels, rows, hidden] in host memory: main, then the deepstack levels."""


class ModelRunner:
    """Runs schedules on one model and one KV cache."""

    def __init__(
        self,
        model: DeepStackModel | TextModel,
        *,
        kv_cache: KVCache,
        block_size: int,
        sampler: Sampler,
        device: torch.device,
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._block_size = block_size
        self._sampler = sampler
        self._device = device
        self._deepstack = _ReusedBuffer(device)

    @torch.inference_mode()
    def run(self, schedule: Schedule, store: EmbeddingStore) -> list[int | None]:
        """Computes the schedule; the next token of each chunk that samples, in order (see `Sampler.sample`)."""
        for source, target in schedule.copies:
            self._kv_cache.copy(source, target)
        if not schedule.chunks:
            return []
        inputs = build_inputs(schedule, self._kv_cache, block_size=self._block_size, device=self._device)
        logits = self._forward(inputs, store)
        if not inputs.sampled:
            return []
        return self._sampler.sample(logits, inputs.sampled)

    def _forward(self, inputs: StepInputs, store: EmbeddingStore) -> torch.Tensor:
        if not inputs.visual:
            return self._model(inputs.input_ids, inputs.positions, inputs.forward_batch)
        model: DeepStackModel = self._model  # type: ignore[assignment]  # a text-only model admits no spans
        embeds = model.embed_input_ids(inputs.input_ids)
        deepstack = self._place(inputs.visual, embeds, store)
        return model(inputs.input_ids, inputs.positions, inputs.forward_batch, embeds, deepstack)

    def _place(
        self, visual: tuple[VisualRows, ...], embeds: torch.Tensor, store: EmbeddingStore
    ) -> torch.Tensor | None:
        """Writes main rows over `embeds` [T, hidden]; the deepstack rows [T, hidden * levels], zero for text."""
        deepstack: torch.Tensor | None = None
        for part in visual:
            layout, item = store.tensor(part.key)
            rows = item[:, part.item_row : part.item_row + part.count].to(self._device, non_blocking=True)
            here = slice(part.row, part.row + part.count)
            embeds[here] = rows[0]
            if layout.levels:
                if deepstack is None:
                    deepstack = self._deepstack.zeros(embeds.shape[0], layout.hidden * layout.levels, embeds.dtype)
                deepstack[here].view(part.count, layout.levels, layout.hidden).copy_(rows[1:].transpose(0, 1))
        return deepstack


class _ReusedBuffer:
    """One growing allocation: fresh memory for every step costs more in page faults than the copy into it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.empty(0)

    def zeros(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        if self._memory.numel() < rows * columns or self._memory.dtype != dtype:
            self._memory = torch.empty(rows * columns, dtype=dtype, device=self._device)
        return self._memory[: rows * columns].view(rows, columns).zero_()
