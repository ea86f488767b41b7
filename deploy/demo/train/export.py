"""The trained model as a checkpoint in the layout in which Qwen3-VL-MoE is published."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3VLMoeForConditionalGeneration

WEIGHTS = "model.safetensors"


def export(model: Qwen3VLMoeForConditionalGeneration, model_files: Path, folder: Path) -> Path:
    """Writes weights in bfloat16 and the configuration and tokenizer from `model_files`; returns the weights' path.

    Experts are published as [experts, in, out], the other way round from how `transformers` 5 holds them. A tied head
    is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in model_files.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    tensors = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().to("cpu", torch.bfloat16)
        tensors[name] = (values.transpose(1, 2) if ".mlp.experts." in name else values).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder / WEIGHTS
