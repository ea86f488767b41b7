"""A training that was interrupted goes on from a file: weights and what the optimizer remembers, no pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from deploy.demo.train.optimizer import Optimizer

STATE_FILE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` steps of `steps` are done, in `seconds`; what a step learns from depends on `seed` and its number only."""

    step: int
    steps: int
    seed: int
    seconds: float = 0.0


def save(folder: Path, learner: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Replaces the state in `folder`, whole or not at all."""
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in learner.named_parameters()}
    tensors |= optimizer.state()
    written = folder / f"{STATE_FILE}.new"
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        written,
        metadata={"progress": json.dumps(asdict(progress))},
    )
    os.replace(written, folder / STATE_FILE)


def load(folder: Path, learner: nn.Module, optimizer: Optimizer) -> Progress:
    """Fills both from the state in `folder`.

    Raises:
        ValueError: there is none, or it is of another model.
    """
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"{folder} has no {STATE_FILE} to resume from")
    with safe_open(folder / STATE_FILE, "pt") as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            weight = tensors.get(f"weight/{name}")
            if weight is None or weight.shape != parameter.shape:
                raise ValueError(f"{folder / STATE_FILE} is of another model: no {name} {list(parameter.shape)} in it")
            parameter.copy_(weight)
    optimizer.load(tensors)
    return progress
