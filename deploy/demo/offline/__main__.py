"""python -m deploy.demo.offline CHECKPOINT [--faults] [--compare FILE]"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
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


def ablation(way: Way, cases: Sequence[Case], broken: Mapping[str, Fault]) -> str:
    """Markdown: the share of right answers by kind, with all levels intact and under each fault."""
    questions = [case.questions[0] for case in cases]
    columns: dict[str, Fault | None] = {"intact": None, **broken}
    return table(
        {name: rows(questions, [answer.text for answer in way(cases, fault)]) for name, fault in columns.items()}
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
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="instead: count how many of the answers in FILE, from make eval, agree",
    )
    arguments = parser.parse_args()
    dtype, cases = _DTYPES[arguments.dtype], frozen_cases(arguments.items)
    if arguments.compare is not None:
        texts = json.loads(arguments.compare.read_text(encoding="utf-8"))
        cases = cases[: len(texts)]
        print(compare(_reference(arguments.checkpoint, dtype)(cases, None), texts[: len(cases)]))
        return
    if arguments.faults:
        cases = [case for case in cases if case.scenes]
    broken = faults(arguments.checkpoint) if arguments.faults else {}
    if arguments.through == "reference":
        print(ablation(_reference(arguments.checkpoint, dtype), cases, broken))
        return
    served = Served(arguments.checkpoint, dtype)
    try:
        print(ablation(served.answers, cases, broken))
    finally:
        served.close()


def faults(checkpoint: Path) -> dict[str, Fault]:
    """All that the levels of this checkpoint can have."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return all_faults(len(config["vision_config"]["deepstack_visual_indexes"]))


def _reference(checkpoint: Path, dtype: torch.dtype) -> Way:
    reference = Reference(checkpoint, dtype)
    return lambda cases, fault: [reference.answer(case, fault) for case in cases]


if __name__ == "__main__":
    main()
