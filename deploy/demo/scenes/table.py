"""Scores by kind of question, beside what is to be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.demo.scenes.question import Kind, Question
from deploy.demo.scenes.scoring import is_right, score

TARGETS: Mapping[Kind, float] = {
    "shape": 0.95,
    "colour": 0.95,
    "count": 0.95,
    "left or right": 0.95,
    "above or below": 0.95,
    "which of two images": 0.95,
    "at a place": 0.93,
    "largest": 0.93,
    "more objects": 0.93,
    "larger of two": 0.90,
    "count of one shape": 0.88,
    "description": 0.85,
    "grounding": 0.95,  # of the boxes found
    "motion": 0.90,
}
MEAN_IOU_TARGET = 0.83


@dataclass(frozen=True, kw_only=True)
class Row:
    """`right` is a fraction of `items`; `iou` is the mean over the boxes of grounding, None elsewhere."""

    kind: Kind
    items: int
    right: float
    iou: float | None

    @property
    def reached(self) -> bool:
        enough = self.right >= TARGETS.get(self.kind, 0.0)
        return enough and (self.iou is None or self.iou >= MEAN_IOU_TARGET)


def rows(questions: Sequence[Question], answers: Sequence[str]) -> list[Row]:
    """One for each kind, in the order in which they first come."""
    by_kind: dict[Kind, list[tuple[Question, str]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        by_kind.setdefault(question.kind, []).append((question, answer))
    return [
        Row(
            kind=kind,
            items=len(pairs),
            right=sum(is_right(*pair) for pair in pairs) / len(pairs),
            iou=sum(score(*pair) for pair in pairs) / len(pairs) if kind == "grounding" else None,
        )
        for kind, pairs in by_kind.items()
    ]


def table(columns: Mapping[str, Sequence[Row]]) -> str:
    """Markdown: a line for each kind, a column in per cent for each run; targets belong to the first run."""
    first = next(iter(columns.values()))
    lines = [
        f"| question | items | {' | '.join(columns)} | target |",
        f"|---|---:|{'---:|' * len(columns)}---:|",
    ]
    for index, row in enumerate(first):
        cells = [_cell(column[index]) for column in columns.values()]
        target = f"{TARGETS[row.kind]:.0%}" if row.kind in TARGETS else ""
        if row.iou is not None:
            target += f", IoU {MEAN_IOU_TARGET}"
        missed = "" if row.reached else " missed"
        lines.append(f"| {row.kind} | {row.items} | {' | '.join(cells)} | {target}{missed} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    return f"{row.right:.1%}" + (f", IoU {row.iou:.2f}" if row.iou is not None else "")
