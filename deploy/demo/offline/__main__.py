"""python -m deploy.demo.offline CHECKPOINT [--faults] [--compare FILE]"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from deploy.demo.offline.answer import Answer, compare
from deploy.demo.offline.reference import Reference
from deploy.demo.offline.served import Served
from deploy.demo.scenes.frozen import frozen_cases
from deploy.demo.scenes.question import Case
from deploy.demo.scenes.table import rows, table
from deploy.demo.train.faults import Fault, all_faults

Way = Callable[[Sequence[Case], Fault | None], list[Answer]]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def ablation(way: Way, cases: Sequence[Case], levels: int, *, every_fault: bool) -> str:
    """Markdown: the share of right answers by kind, with all levels intact and under each fault."""
    questions = [case.questions[0] for case in cases]
    faults: dict[str, Fault | None] = {"intact": None}
    faults |= all_faults(levels) if every_fault else {}
    return table(
        {name: rows(questions, [answer.text for answer in way(cases, fault)]) for name, fault in faults.items()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.offline",
        description="Ask the frozen questions without servers, through transformers or through our own engine.",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--through", choices=("reference", "engine"), default="reference")
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="bfloat16")
    parser.add_argument("--items", type=int, help="only so many questions")
    parser.add_argument("--faults", action="store_true", help="also with broken deepstack levels; pictures only")
    parser.add_argument("--compare", type=Path, help="count the answers that differ from those in a file of make eval")
    arguments = parser.parse_args()
    dtype, cases = _DTYPES[arguments.dtype], frozen_cases(arguments.items)
    reference = partial(_each, Reference(arguments.checkpoint, dtype)) if _wants_reference(arguments) else None
    if arguments.compare is not None:
        assert reference is not None
        texts = json.loads(arguments.compare.read_text(encoding="utf-8"))[: len(cases)]
        print(compare(reference(cases[: len(texts)], None), texts))
        return
    if arguments.faults:
        cases = [case for case in cases if case.scenes]
    levels = len(
        json.loads((arguments.checkpoint / "config.json").read_text())["vision_config"]["deepstack_visual_indexes"]
    )
    if reference is not None:
        print(ablation(reference, cases, levels, every_fault=arguments.faults))
        return
    served = Served(arguments.checkpoint, dtype)
    try:
        print(ablation(served.answers, cases, levels, every_fault=arguments.faults))
    finally:
        served.close()


def _wants_reference(arguments: argparse.Namespace) -> bool:
    return arguments.through == "reference" or arguments.compare is not None


def _each(reference: Reference, cases: Sequence[Case], fault: Fault | None) -> list[Answer]:
    return [reference.answer(case, fault) for case in cases]


if __name__ == "__main__":
    main()
