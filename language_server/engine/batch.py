"""From a schedule to the tensors of one forward.

rows of the step     | chunk 0 .......... | chunk 1 | chunk 2 ..... |        T rows
visual rows          |      [ span ]      |         | span ]        |        taken from the arena
logits_indices                          ^         ^  (chunk 2 is not at its request's end)
prompt rows                                 ^^^^^^^^^^^^^^^  (its request wants log probabilities of the prompt)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.media_key import MediaKey
from common.models.forward_batch import ForwardBatch
from language_server.engine.kv_cache import KVCache
from language_server.engine.request import Request
from language_server.engine.scheduler import Chunk, Schedule


@dataclass(frozen=True, kw_only=True)
class VisualRows:
    """Rows [row, row + count) of the step take the item's rows from `item_row` on."""

    key: MediaKey
    item_row: int
    row: int
    count: int


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """Rows [row, row + len(token_ids)) of the step come before these tokens of the prompt, the first at `start`."""

    request: Request
    start: int
    token_ids: list[int]
    row: int


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """input_ids [T], positions [3, T]; `sampled` are the requests that the batch's logits belong to, in order."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    forward_batch: ForwardBatch
    visual: tuple[VisualRows, ...]
    sampled: tuple[Request, ...]
    prompts: tuple[PromptRows, ...]


def build_inputs(schedule: Schedule, kv_cache: KVCache, *, block_size: int, device: torch.device) -> StepInputs:
    """Lays the schedule's chunks one after another. `schedule.chunks` is not empty."""
    ids: list[int] = []
    positions, slots, visual, prompts, logits_rows = [], [], [], [], []
    for chunk in schedule.chunks:
        request, first_row = chunk.request, len(ids)
        ids += request.tokens(chunk.start, chunk.end)
        positions.append(request.positions_of(chunk.start, chunk.end))
        token = np.arange(chunk.start, chunk.end, dtype=np.int64)
        table = np.asarray(request.block_table, dtype=np.int64)
        slots.append(table[token // block_size] * block_size + token % block_size)
        for span, first, last in request.spans_in(chunk.start, chunk.end):
            item_row = span.row_offset + first - span.token_offset
            row = first_row + first - chunk.start
            visual.append(VisualRows(key=span.key, item_row=item_row, row=row, count=last - first))
        if request.needs_all_logits and (rows := prompt_rows(chunk, first_row)) is not None:
            prompts.append(rows)
        if chunk.samples:
            logits_rows.append(len(ids) - 1)

    blocks = [-(-chunk.end // block_size) for chunk in schedule.chunks]
    tables = np.zeros((len(schedule.chunks), max(blocks)), dtype=np.int64)
    for row, (chunk, count) in enumerate(zip(schedule.chunks, blocks, strict=True)):
        tables[row, :count] = chunk.request.block_table[:count]

    forward_batch = ForwardBatch(
        query_lens=tuple(chunk.length for chunk in schedule.chunks),
        context_lens=tuple(chunk.end for chunk in schedule.chunks),
        block_tables=torch.from_numpy(tables).to(device),
        slot_mapping=torch.from_numpy(np.concatenate(slots)).to(device),
        kv_caches=kv_cache.layers,
        logits_indices=torch.tensor(logits_rows, dtype=torch.int64, device=device),
    )
    return StepInputs(
        input_ids=torch.tensor(ids, dtype=torch.int64, device=device),
        positions=torch.from_numpy(np.concatenate(positions, axis=1)).to(device),
        forward_batch=forward_batch,
        visual=tuple(visual),
        sampled=tuple(chunk.request for chunk in schedule.chunks if chunk.samples),
        prompts=tuple(prompts),
    )


def prompt_rows(chunk: Chunk, first_row: int) -> PromptRows | None:
    """What the chunk tells about its prompt and has not been told yet, as before a preemption. A row tells the next
    token's probability."""
    request = chunk.request
    start = max(chunk.start + 1, request.next_prompt_logprob)
    token_ids = request.prompt_ids[start : chunk.end + 1]
    if not token_ids:
        return None
    return PromptRows(request=request, start=start, token_ids=token_ids, row=first_row + start - 1 - chunk.start)
