"""A checkpoint with random weights, in the layout in which Qwen3-VL-MoE is published.

    python -m deploy.demo.random_weights DIR [--seed N]

What it answers is noise, but everything that a trained checkpoint goes through works with it: it has all tensors, under
their published names and in their published orientation (experts as [experts, in, out]).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MODEL_FILES = Path(__file__).parent / "model"


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a Qwen3-VL-MoE checkpoint with this config.json.

    Raises:
        ValueError: another architecture, or layers without experts.
    """
    if config.get("architectures") != ["Qwen3VLMoeForConditionalGeneration"]:
        raise ValueError(f"weights are made for Qwen3VLMoeForConditionalGeneration, not {config.get('architectures')}")
    text = config["text_config"]
    if text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1:
        raise ValueError("weights are made for decoders with experts in every layer")
    yield from _vision_shapes(config["vision_config"])
    yield from _text_shapes(text)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])


def _vision_shapes(vision: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, merged = (
        vision["hidden_size"],
        vision["intermediate_size"],
        vision["hidden_size"] * vision["spatial_merge_size"] ** 2,
    )
    patch = (vision["in_channels"], vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    yield from _linear("model.visual.patch_embed.proj", (hidden, *patch))
    yield "model.visual.pos_embed.weight", (vision["num_position_embeddings"], hidden)
    for layer in range(vision["depth"]):
        block = f"model.visual.blocks.{layer}"
        yield from _linear(f"{block}.norm1", (hidden,))
        yield from _linear(f"{block}.norm2", (hidden,))
        yield from _linear(f"{block}.attn.qkv", (3 * hidden, hidden))
        yield from _linear(f"{block}.attn.proj", (hidden, hidden))
        yield from _linear(f"{block}.mlp.linear_fc1", (inner, hidden))
        yield from _linear(f"{block}.mlp.linear_fc2", (hidden, inner))
    # The main merger normalises patches before it joins them, those of the deepstack levels after it.
    mergers = [("model.visual.merger", hidden)]
    mergers += [
        (f"model.visual.deepstack_merger_list.{i}", merged) for i in range(len(vision["deepstack_visual_indexes"]))
    ]
    for merger, normalised in mergers:
        yield from _linear(f"{merger}.norm", (normalised,))
        yield from _linear(f"{merger}.linear_fc1", (merged, merged))
        yield from _linear(f"{merger}.linear_fc2", (vision["out_hidden_size"], merged))


def _text_shapes(text: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, head, experts, inner = (
        text["hidden_size"],
        text["head_dim"],
        text["num_experts"],
        text["moe_intermediate_size"],
    )
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    yield "model.language_model.embed_tokens.weight", (text["vocab_size"], hidden)
    for index in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{layer}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{layer}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{layer}.self_attn.q_norm.weight", (head,)
        yield f"{layer}.self_attn.k_norm.weight", (head,)
        yield f"{layer}.mlp.gate.weight", (experts, hidden)
        yield f"{layer}.mlp.experts.gate_up_proj", (experts, hidden, 2 * inner)
        yield f"{layer}.mlp.experts.down_proj", (experts, inner, hidden)
    yield "model.language_model.norm.weight", (hidden,)


def _linear(name: str, weight: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Scaled so that signals keep their size through the layers, and no norm or bias is trivial: [*shape], float32."""
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return values * 0.1 if name.endswith(".bias") else 1 + values * 0.1
    if name.endswith(("embed_tokens.weight", "pos_embed.weight")):
        return values * 0.1
    inputs = shape[1] if ".experts." in name else math.prod(shape[1:])
    return values / math.sqrt(inputs)


def write_checkpoint(directory: Path, *, seed: int = 0) -> Path:
    """Writes model.safetensors into `directory`; one without a config.json gets the demo's files first.

    Returns the path of the weights. The same seed gives the same bytes.

    Raises:
        ValueError: the config is not one that weights can be made for.
        FileExistsError: there are weights already.
    """
    weights = directory / "model.safetensors"
    if weights.exists():
        raise FileExistsError(f"{weights} exists already")
    if not (directory / "config.json").exists():
        shutil.copytree(MODEL_FILES, directory, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config["dtype"]]
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: random_tensor(name, shape, generator).to(dtype) for name, shape in tensor_shapes(config)}
    save_file(tensors, weights, metadata={"format": "pt"})
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.directory, seed=arguments.seed))


if __name__ == "__main__":
    main()
