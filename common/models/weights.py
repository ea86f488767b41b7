"""Builds a role's model and fills it from a published checkpoint.

Models are built on the meta device, which costs nothing; then each module's tensors are read, one module at a time,
and packed for the CPU where that is faster, so that no more than one module is ever held twice.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from common.models.checkpoint import Checkpoint, CheckpointError, ProgressCallback
from common.models.config import UnsupportedModelError, load_config
from common.models.decoder import LanguageHead
from common.models.layers import Linear
from common.models.moe import Experts
from common.models.registry import REGISTRY, LanguageModel, WholeModel
from common.models.roles import Role

_SHOWN_NAMES = 5


def load_language(
    model_dir: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    progress: ProgressCallback | None = None,
) -> LanguageModel:
    """The decoder and its head; of a vision-language checkpoint no visual tensor is read.

    Args:
        model_dir: directory with config.json and safetensors files.
        dtype: of all weights, whatever the checkpoint's.
        device: where they go.
        progress: called with (bytes read, bytes of this role) after each tensor.

    Raises:
        UnsupportedModelError: the checkpoint is of a kind that is not served.
        CheckpointError: a tensor is missing, left over, or of another shape than config.json says.
        FileNotFoundError: there is no config.json.
    """
    config = load_config(model_dir)
    with torch.device("meta"):
        model = REGISTRY[config.architecture].language(config)
    with contextlib.closing(Checkpoint(model_dir, "language", progress)) as checkpoint:
        _fill(model, TensorSource(checkpoint, model.checkpoint_prefixes, dtype, torch.device(device)))
    return model


def load_vision(
    model_dir: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    progress: ProgressCallback | None = None,
) -> WholeModel:
    """The vision tower in a vision-only model; no other tensor is read. Arguments and errors as `load_language`."""
    return _load_whole(model_dir, "vision", dtype, device, progress)


def load_whole(
    model_dir: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    progress: ProgressCallback | None = None,
) -> WholeModel:
    """Tower and decoder in one. Arguments and errors as `load_language`."""
    return _load_whole(model_dir, "whole", dtype, device, progress)


def _load_whole(
    model_dir: Path,
    role: Role,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: ProgressCallback | None,
) -> WholeModel:
    config = load_config(model_dir)
    whole = REGISTRY[config.architecture].whole
    if whole is None:
        raise UnsupportedModelError(f"{config.architecture} has no vision tower")
    with torch.device("meta"):
        model = whole(config, vision_only=role == "vision")
    with contextlib.closing(Checkpoint(model_dir, role, progress)) as checkpoint:
        _fill(model, TensorSource(checkpoint, model.checkpoint_prefixes, dtype, torch.device(device)))
    return model


def _fill(model: nn.Module, source: TensorSource) -> None:
    for path, module in model.named_modules():
        match module:
            case LanguageHead(tied=True):
                _tie_head(module, path, model.get_parameter("model.embed_tokens.weight"), source)
            case Linear():
                _fill_linear(module, path, source)
            case Experts():
                _fill_experts(module, path, source)
            case _:
                _fill_plain(module, path, source)
    if unread := sorted(source.checkpoint.unread):
        shown = ", ".join(unread[:_SHOWN_NAMES]) + (", ..." if len(unread) > _SHOWN_NAMES else "")
        raise CheckpointError(f"the checkpoint has {len(unread)} tensors that the model has no place for: {shown}")
    model.to(source.device)  # the buffers; weights are there already
    model.eval()


class TensorSource:
    """Tensors by the names that modules have, with their shapes checked."""

    def __init__(
        self, checkpoint: Checkpoint, prefixes: dict[str, str], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = device
        self._prefixes = prefixes

    def name(self, path: str) -> str:
        """The checkpoint's name for what the model calls `path`."""
        for ours, published in self._prefixes.items():
            if path.startswith(ours):
                return published + path.removeprefix(ours)
        return path

    def shape(self, path: str) -> tuple[int, ...]:
        return self.checkpoint.entry(self.name(path)).shape

    def read(self, path: str, shape: torch.Size) -> torch.Tensor:
        """Raises CheckpointError if the tensor is missing or not of `shape`."""
        if self.shape(path) != tuple(shape):
            raise CheckpointError(
                f"tensor {self.name(path)} has shape {self.shape(path)}, config.json asks for {tuple(shape)}"
            )
        return self.checkpoint.read(self.name(path), self.dtype)

    def read_slice(self, path: str, index: int) -> torch.Tensor:
        return self.checkpoint.read_slice(self.name(path), index, self.dtype)

    def empty(self, shape: torch.Size) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)


def _fill_plain(module: nn.Module, path: str, source: TensorSource) -> None:
    for name, parameter in module.named_parameters(path, recurse=False):
        tensor = source.read(name, parameter.shape).to(source.device)
        setattr(module, name.rpartition(".")[2], _frozen(tensor))


def _fill_linear(module: Linear, path: str, source: TensorSource) -> None:
    if not module.parts:
        _fill_plain(module, path, source)
    else:
        names = [f"{path.rpartition('.')[0]}.{part}" for part in module.parts]
        module.weight = _frozen(_join(module.weight, names, "weight", module, source))
        if module.bias is not None:
            module.bias = _frozen(_join(module.bias, names, "bias", module, source))
    module.pack()


def _join(parameter: torch.Tensor, names: list[str], kind: str, module: Linear, source: TensorSource) -> torch.Tensor:
    """The rows of several projections, one after another."""
    joined = source.empty(parameter.shape)
    sizes = list(module.parts.values())
    for name, rows in zip(names, torch.split(joined, sizes), strict=True):
        rows.copy_(source.read(f"{name}.{kind}", rows.shape))
    return joined


def _tie_head(head: LanguageHead, path: str, embedding: nn.Parameter, source: TensorSource) -> None:
    """The embedding is the head. Where the checkpoint has a head too, it must be the same."""
    if source.name(f"{path}.weight") in source.checkpoint:
        weight = source.read(f"{path}.weight", embedding.shape).to(source.device)
        if not torch.equal(weight, embedding):
            raise CheckpointError(f"config.json ties {path}.weight to the embedding, but they differ")
    head.weight = embedding
    head.pack()


def _fill_experts(module: Experts, path: str, source: TensorSource) -> None:
    gate_up, down = source.empty(module.gate_up_proj.shape), source.empty(module.down_proj.shape)
    if source.name(f"{path}.gate_up_proj") in source.checkpoint:
        transposed = _stacks_are_transposed(module, path, source)
        for i in range(module.num_experts):
            for name, out in (("gate_up_proj", gate_up[i]), ("down_proj", down[i])):
                tensor = source.read_slice(f"{path}.{name}", i)
                out.copy_(tensor.T if transposed else tensor)
    else:
        for i in range(module.num_experts):
            gate, up = gate_up[i].chunk(2)
            for name, out in (("gate_proj", gate), ("up_proj", up), ("down_proj", down[i])):
                out.copy_(source.read(f"{path}.{i}.{name}.weight", out.shape))
    module.gate_up_proj, module.down_proj = _frozen(gate_up), _frozen(down)
    module.pack()


def _stacks_are_transposed(module: Experts, path: str, source: TensorSource) -> bool:
    """Whether stacked experts are `[E, in, out]`, as published, and not `[E, out, in]`, as transformers 5 saves them.

    The two shapes together decide. One of them may be square, where hidden size is intermediate size or twice that;
    both can't be.
    """
    found = source.shape(f"{path}.gate_up_proj"), source.shape(f"{path}.down_proj")
    straight = tuple(module.gate_up_proj.shape), tuple(module.down_proj.shape)
    transposed = tuple((experts, size_in, size_out) for experts, size_out, size_in in straight)
    if found not in (straight, transposed):
        raise CheckpointError(
            f"{source.name(path)}.gate_up_proj and down_proj have shapes {found[0]} and {found[1]},"
            f" which fit neither {straight} nor {transposed}"
        )
    return found == transposed


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
