"""Everything that happens on the device: the forward of a step, its visual rows, log probabilities and the draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from common.embeddings import EmbeddingLayout
from common.media_key import MediaKey
from common.models.forward_batch import ForwardBatch
from common.pb import language_pb2 as pb
from language_server.engine.batch import PromptRows, StepInputs, VisualRows, build_inputs
from language_server.engine.grammar_masks import GrammarMasks
from language_server.engine.kv_cache import KVCache
from language_server.engine.logprobs import prompt_logprobs, token_logprobs
from language_server.engine.request import Request
from language_server.engine.sampler import Draw, Sampler
from language_server.engine.scheduler import Schedule


class DeepStackDecoder(Protocol):
    """A stack of layers that takes deepstack: normalised hidden states [T, hidden]."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        input_deepstack_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


class TextDecoder(Protocol):
    """One that does not."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


class LanguageModel(Protocol):
    """What the runner needs of `Qwen3MoeForCausalLMWithDeepStack`, its dense twin, and the text-only models."""

    @property
    def model(self) -> DeepStackDecoder | TextDecoder: ...

    @property
    def lm_head(self) -> Callable[[torch.Tensor], torch.Tensor]: ...  # hidden states to logits [R, vocab] float32

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor: ...


class EmbeddingStore(Protocol):
    """Where received items lie."""

    def tensor(self, key: MediaKey) -> tuple[EmbeddingLayout, torch.Tensor]:
        """The item's layout, and [1 + levels, rows, hidden] in host memory: main, then the deepstack levels."""


@dataclass(frozen=True, kw_only=True)
class PromptPiece:
    """Log probabilities of the prompt's tokens from `start` on."""

    request: Request
    start: int
    tokens: list[pb.TokenLogprobs]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step brought: a draw for each chunk that samples, in order; log probabilities where they are wanted."""

    draws: Sequence[Draw] = ()
    logprobs: Mapping[int, pb.TokenLogprobs]  # by place among the draws
    prompts: Sequence[PromptPiece] = ()


class ModelRunner:
    """Runs schedules on one model and one KV cache."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        kv_cache: KVCache,
        block_size: int,
        sampler: Sampler,
        masks: GrammarMasks,
        device: torch.device,
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._block_size = block_size
        self._sampler = sampler
        self._masks = masks
        self._device = device
        self._deepstack = _ReusedBuffer(device)

    @property
    def gauges(self) -> dict[str, float]:
        """For the metrics."""
        return {
            "kv_block_bytes": self._kv_cache.block_bytes,
            "grammar_mask_seconds": self._masks.seconds,
            "grammar_wait_seconds": self._masks.waited_seconds,
        }

    @torch.inference_mode()
    def run(self, schedule: Schedule, store: EmbeddingStore) -> StepResult:
        """Computes the schedule. Masks of grammars are computed meanwhile, on other threads."""
        for source, target in schedule.copies:
            self._kv_cache.copy(source, target)
        if not schedule.chunks:
            return StepResult(logprobs={})
        inputs = build_inputs(schedule, self._kv_cache, block_size=self._block_size, device=self._device)
        self._masks.start([request.grammar for request in inputs.sampled])
        hidden = self._forward(inputs, store)
        prompts = [self._describe_prompt(rows, hidden) for rows in inputs.prompts]
        if not inputs.sampled:
            return StepResult(logprobs={}, prompts=prompts)
        logits = self._model.lm_head(hidden[inputs.forward_batch.logits_indices])
        wanted = [row for row, request in enumerate(inputs.sampled) if request.sampling.logprobs is not None]
        raw = logits[wanted].log_softmax(dim=-1) if wanted else None  # the sampler overwrites logits
        draws = self._sampler.sample(logits, inputs.sampled)
        logprobs = {} if raw is None else _describe(raw, wanted, draws, inputs.sampled)
        return StepResult(draws=draws, logprobs=logprobs, prompts=prompts)

    def _forward(self, inputs: StepInputs, store: EmbeddingStore) -> torch.Tensor:
        """Hidden states [T, hidden]."""
        if not inputs.visual:
            return self._model.model(inputs.input_ids, inputs.positions, inputs.forward_batch)
        decoder: DeepStackDecoder = self._model.model  # type: ignore[assignment]  # a text-only model admits no spans
        embeds = self._model.embed_input_ids(inputs.input_ids)
        deepstack = self._place(inputs.visual, embeds, store)
        return decoder(inputs.input_ids, inputs.positions, inputs.forward_batch, embeds, deepstack)

    def _describe_prompt(self, rows: PromptRows, hidden: torch.Tensor) -> PromptPiece:
        top = rows.request.sampling.prompt_logprobs
        assert top is not None
        here = hidden[rows.row : rows.row + len(rows.token_ids)]
        tokens = prompt_logprobs(here, self._model.lm_head, rows.token_ids, top)
        return PromptPiece(request=rows.request, start=rows.start, tokens=list(tokens))

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


def _describe(
    raw: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw], requests: Sequence[Request]
) -> dict[int, pb.TokenLogprobs]:
    """By row; raw [len(rows), vocab] are their log probabilities."""
    told = [(place, row, draw) for place, row in enumerate(rows) if isinstance(draw := draws[row], int)]
    if not told:
        return {}
    tokens = token_logprobs(
        raw[[place for place, _, _ in told]],
        [draw for _, _, draw in told],
        [requests[row].sampling.logprobs or 0 for _, row, _ in told],
    )
    return {row: token for (_, row, _), token in zip(told, tokens, strict=True)}


class _ReusedBuffer:
    """One growing allocation: fresh memory for every step costs more in page faults than the copy into it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.empty(0)

    def zeros(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        if self._memory.numel() < rows * columns or self._memory.dtype != dtype:
            self._memory = torch.empty(rows * columns, dtype=dtype, device=self._device)
        return self._memory[: rows * columns].view(rows, columns).zero_()
