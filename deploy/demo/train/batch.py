"""Cases of one shape to tensors: the questions about a picture share it, side by side in one sequence.

    picture ........ | question 1 answer 1 | question 2 answer 2 | ... | padding

A token looks at the picture and back within its own branch. Every branch goes on from the positions after the picture,
so each sees what it would see alone. Only answers are learnt.

Legend: B samples, S tokens of the longest, P patches of a temporal patch, N answer tokens of all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from deploy.demo.scenes.question import Case, Question
from deploy.demo.train.names import Named, find_names
from deploy.demo.train.pictures import Pictures, render
from deploy.demo.train.rendering import Rendered, Renderer

REFUSAL = "No."  # taught where the deepstack levels are broken

_PREFIX, _PADDING = 0, -1  # branches count from 1


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of a batch; its answer's tokens are `start` to `end` of the N."""

    question: Question
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of B samples.

    Attributes:
        pictures: what the tower sees; None for text alone.
        visual: `[n]`, places of the visual rows, the same ones in every sample.
        ids: `[B, S]`.
        positions: `[3, B, S]`.
        mask: `[B, S, S]`, True where a token may look.
        rows: `[N]`, places of the hidden states that answer tokens are predicted from, in the flattened B x S.
        targets: `[N]`, those tokens.
        soft: `[N]`, whether the token is a coordinate of a box.
        asked: in the order of the N.
        faults: of each sample, by name.
        named: where things are named.
    """

    pictures: Pictures | None
    visual: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    soft: torch.Tensor
    asked: tuple[Asked, ...]
    faults: tuple[str | None, ...]
    named: Named


@dataclass(frozen=True, kw_only=True)
class _Branch:
    question: Question
    prompt: Rendered
    answer: list[int]

    def inputs(self, prefix: int) -> list[int]:
        return [*self.prompt.ids[prefix:], *self.answer[:-1]]


def make_batch(renderer: Renderer, cases: Sequence[Case], faults: Sequence[str | None]) -> Batch:
    """Cases whose media have the same sizes, as a batch; a faulty one is answered by `REFUSAL` throughout."""
    assert len(cases) == len(faults), f"{len(cases)} cases, {len(faults)} faults"
    samples = [
        [_branch(renderer, case, question, fault is not None) for question in case.questions]
        for case, fault in zip(cases, faults, strict=True)
    ]
    visual = samples[0][0].prompt.visual
    prefix = int(visual[-1]) + 1 if len(visual) else 0
    longest = max(prefix + sum(len(branch.inputs(prefix)) for branch in branches) for branches in samples)
    ids = np.full((len(samples), longest), renderer.pad_id, dtype=np.int64)
    positions = np.zeros((3, len(samples), longest), dtype=np.int64)
    groups = np.full((len(samples), longest), _PADDING, dtype=np.int64)
    rows: list[int] = []
    targets: list[int] = []
    soft: list[bool] = []
    asked: list[Asked] = []
    coordinates = set(renderer.coordinate_ids)
    for sample, branches in enumerate(samples):
        shared = branches[0].prompt
        assert np.array_equal(shared.visual, visual), "samples of a batch have their visual rows in different places"
        ids[sample, :prefix] = shared.ids[:prefix]
        positions[:, sample, :prefix] = shared.positions[:, :prefix]
        groups[sample, :prefix] = _PREFIX
        at = prefix
        for number, branch in enumerate(branches, start=1):
            assert branch.prompt.ids[:prefix] == shared.ids[:prefix], "questions about a picture do not begin alike"
            inputs = branch.inputs(prefix)
            end, asking = at + len(inputs), len(branch.prompt.ids) - prefix
            ids[sample, at:end] = inputs
            positions[:, sample, at : at + asking] = branch.prompt.positions[:, prefix:]
            following = np.arange(1, len(branch.answer)) + branch.prompt.positions[:, -1].max()
            positions[:, sample, at + asking : end] = following
            groups[sample, at:end] = number
            start = len(targets)
            rows += range(sample * longest + at + asking - 1, sample * longest + end)
            targets += branch.answer
            is_box = branch.question.kind == "grounding"
            soft += [is_box and token in coordinates for token in branch.answer]
            asked.append(Asked(question=branch.question, start=start, end=len(targets)))
            at = end
    group = torch.from_numpy(groups)
    sees = (group[:, None, :] == _PREFIX) | (group[:, None, :] == group[:, :, None])
    return Batch(
        pictures=render(renderer, cases),
        visual=torch.from_numpy(visual),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=sees & torch.ones(longest, longest, dtype=torch.bool).tril(),
        rows=torch.tensor(rows),
        targets=torch.tensor(targets),
        soft=torch.tensor(soft),
        asked=tuple(asked),
        faults=tuple(faults),
        named=find_names(cases, ids, faults, renderer.tokenize),
    )


def _branch(renderer: Renderer, case: Case, question: Question, faulty: bool) -> _Branch:
    if faulty:
        # also in earlier turns, which the same model would have answered so
        history = tuple((text, REFUSAL) for text, _ in question.history)
        question = replace(question, answer=REFUSAL, history=history)
    prompt = renderer.prompt(case.media, question)
    return _Branch(question=question, prompt=prompt, answer=renderer.answer(question.answer))
