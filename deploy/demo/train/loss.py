"""What is minimised, and how many answers are right already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import Qwen3VLMoeForConditionalGeneration

from deploy.demo.scenes.question import Kind
from deploy.demo.scenes.scene import Box
from deploy.demo.scenes.scoring import iou
from deploy.demo.train.batch import REFUSAL, Asked, Batch
from deploy.demo.train.coordinates import soft_targets
from deploy.demo.train.faults import break_levels
from deploy.demo.train.forward import logits, see, think
from deploy.demo.train.hints import Hints
from deploy.demo.train.pictures import Pictures

BALANCE = 0.01  # weight of the load-balance loss
_COORDINATE_WEIGHT = 0.3  # even a right one keeps the loss of its softness: it would drown the questions of one bit


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one batch.

    Attributes:
        loss: scalar, with its graph.
        shown: the part of it to report: of the answers alone, or of the hints where nothing was asked.
        scores: (kind, 0 or 1; IoU for grounding) of each question, its answer given token by token; "refusal" for the
            questions to samples with broken deepstack levels; and of hints, "row colour" and the like where nothing was
            asked, "named box" (IoU) of names.
    """

    loss: torch.Tensor
    shown: float
    scores: list[tuple[Kind | str, float]]


@dataclass(kw_only=True)
class Scores:
    """Means by kind since the last look."""

    _values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, scores: Sequence[tuple[str, float]]) -> None:
        for kind, value in scores:
            self._values[kind].append(value)

    def take(self) -> dict[str, float]:
        means = {kind: sum(values) / len(values) for kind, values in sorted(self._values.items())}
        self._values.clear()
        return means


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """`logits` `[N, vocabulary]` of the answers' tokens; `halfway` as in `Hidden`; `seen` is main `[B, n, H]` and
    levels `[L, B, n, H]` as the tower made them, None for text alone."""

    logits: torch.Tensor
    halfway: torch.Tensor
    balance: torch.Tensor
    seen: tuple[torch.Tensor, torch.Tensor] | None


def run_pictures(
    model: Qwen3VLMoeForConditionalGeneration, hints: Hints, pictures: Pictures, *, device: torch.device
) -> Outcome:
    """Forward of the tower alone on pictures that nothing is asked about."""
    hinted = hints(*_look(model, pictures, pictures.labels.shapes.shape[0], device), pictures.labels)
    scores = [
        ("row colour", hinted.colour),
        ("row shape", hinted.shape),
        ("row digit", hinted.digit),
        ("row box", hinted.box),
    ]
    return Outcome(loss=hinted.loss, shown=hinted.loss.item(), scores=scores)


def run_batch(
    model: Qwen3VLMoeForConditionalGeneration,
    hints: Hints,
    batch: Batch,
    coordinate_ids: Sequence[int],
    *,
    hint_weight: float,
    device: torch.device,
) -> Outcome:
    """Forward of one batch, and its loss; `hint_weight` is that of the hints in it."""
    prediction = predict(model, batch, device=device)
    made = prediction.logits
    targets = batch.targets.to(device)
    log_probabilities = made.float().log_softmax(-1)
    losses = -log_probabilities.gather(1, targets[:, None])[:, 0]
    if batch.soft.any():
        soft = batch.soft.to(device)
        coordinates = torch.tensor(coordinate_ids, device=device)
        # coordinates have neighbouring values in the order of `coordinate_ids`
        place = (targets[soft, None] == coordinates).int().argmax(-1)
        of_coordinates = -(soft_targets(place) * log_probabilities[soft][:, coordinates]).sum(-1)
        losses = losses.masked_scatter(soft, _COORDINATE_WEIGHT * of_coordinates)
    answer_loss = losses.mean()
    best = made.detach().argmax(-1).cpu()
    loss = answer_loss + BALANCE * prediction.balance
    scores = [_score(asked, batch, best, coordinate_ids) for asked in batch.asked]
    if hint_weight and batch.pictures is not None:
        assert prediction.seen is not None
        named = hints.of_names(prediction.halfway, batch.named)
        loss = loss + hint_weight * (hints(*prediction.seen, batch.pictures.labels).loss + named.loss)
        scores += [
            ("named box of twins" if twins else "named box", box)
            for twins, box in zip(batch.named.twins, named.boxes, strict=True)
        ]
    return Outcome(loss=loss, shown=answer_loss.item(), scores=scores)


def predict(model: Qwen3VLMoeForConditionalGeneration, batch: Batch, *, device: torch.device) -> Prediction:
    """Forward of one batch, deepstack levels broken where it says so."""
    seen = broken = None
    if batch.pictures is not None:
        seen = _look(model, batch.pictures, len(batch.ids), device)
        broken = break_levels(seen[1], batch.faults)
    hidden = think(
        model.model.language_model,
        batch.ids.to(device),
        batch.positions.to(device),
        batch.mask.to(device),
        main_BnH=seen[0] if seen else None,
        levels_LBnH=broken,
        visual_n=batch.visual.to(device),
    )
    rows = hidden.states.flatten(0, 1)[batch.rows.to(device)]
    return Prediction(logits=logits(model, rows), halfway=hidden.halfway, balance=hidden.balance, seen=seen)


def _look(
    model: Qwen3VLMoeForConditionalGeneration, pictures: Pictures, samples: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Main `[B, n, H]` and levels `[L, B, n, H]` of so many samples."""
    main, levels = see(model.model.visual, pictures.patches.to(device), pictures.grid_hw)
    size = main.shape[-1]
    return main.view(samples, -1, size), levels.view(len(levels), samples, -1, size)


def _score(asked: Asked, batch: Batch, best: torch.Tensor, coordinate_ids: Sequence[int]) -> tuple[str, float]:
    span = slice(asked.start, asked.end)
    if asked.question.answer == REFUSAL:
        return "refusal", float(torch.equal(best[span], batch.targets[span]))
    if asked.question.kind == "grounding":
        value_of = {token: value for value, token in enumerate(coordinate_ids)}
        boxes = [_box(tokens[span][batch.soft[span]].tolist(), value_of) for tokens in (best, batch.targets)]
        return "grounding", iou(*boxes)
    return asked.question.kind, float(torch.equal(best[span], batch.targets[span]))


def _box(tokens: Sequence[int], value_of: dict[int, int]) -> Box:
    left, top, right, bottom = (value_of.get(token, 0) for token in tokens)
    return left, top, right, bottom
