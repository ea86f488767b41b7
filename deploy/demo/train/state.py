"""A training that was interrupted goes on from a file: weights and both moments of Adam, no pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

STATE_FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` steps of `steps` are done, in `seconds`; what a step learns from depends on `seed` and its number only."""

    step: int
    steps: int
    seed: int
    seconds: float = 0.0


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Replaces the state in `folder`, whole or not at all."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment].cpu().contiguous()
    written = folder / f"{STATE_FILE}.new"
    save_file(tensors, written, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(written, folder / STATE_FILE)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Fills `model` and `optimizer` from the state in `folder`.

    Raises:
        ValueError: there is none, or it is of another model.
    """
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"{folder} has no {STATE_FILE} to resume from")
    with safe_open(folder / STATE_FILE, "pt") as file, torch.no_grad():
        progress = Progress(**json.loads(file.metadata()["progress"]))
        names = set(file.keys())
        for name, parameter in model.named_parameters():
            if f"weight/{name}" not in names or file.get_slice(f"weight/{name}").get_shape() != list(parameter.shape):
                raise ValueError(f"{folder / STATE_FILE} is of another model: no {name} {list(parameter.shape)} in it")
            parameter.copy_(file.get_tensor(f"weight/{name}"))
            if f"{_MOMENTS[0]}/{name}" in names:
                moments = {moment: file.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(progress.step)), **moments}
    return progress
