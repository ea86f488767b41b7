"""Writes tiny checkpoints with random weights, made by the classes of `transformers` and laid out as on the hub.

The weights are large enough that answers vary from token to token, and norms and biases are not trivial, so that a
mistake anywhere shows in the logits. Tokenizer, chat template and processor files are the demo's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

DEMO_FILES = Path(__file__).parent.parent / "deploy" / "demo" / "model"

Kind = Literal["moe", "dense", "text_moe", "text_dense"]
# How expert weights lie: `[E, in, out]` as Qwen3-VL-MoE is published, `[E, out, in]` as transformers saves them, or one
# tensor each as Qwen3-MoE is published.
ExpertLayout = Literal["in_out", "out_in", "separate"]

# No two of hidden, intermediate and 2 * intermediate are equal, so that no orientation can be mistaken for another.
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "attention_bias": False,
}
_MOE: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
}
_ROPE = {"rope_type": "default", "rope_theta": 5000000.0}
_VISION: dict[str, Any] = {
    "depth": 6,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_heads": 4,
    "out_hidden_size": _TEXT["hidden_size"],
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 2, 4],
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "in_channels": 3,
}
_TEXT_STD = 0.3
_VISION_STD = 0.15


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids that a config names, from the demo's tokenizer. `size` is padded to a multiple of 64."""

    size: int
    image: int
    video: int
    vision_start: int
    vision_end: int
    end_of_turn: int
    end_of_text: int


def demo_vocabulary() -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(DEMO_FILES / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    names = {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
        "end_of_turn": "<|im_end|>",
        "end_of_text": "<|endoftext|>",
    }
    return Vocabulary(
        size=(size + 63) // 64 * 64, **{field: tokenizer.token_to_id(name) for field, name in names.items()}
    )


def write_checkpoint(
    directory: Path,
    kind: Kind,
    *,
    tied: bool = False,
    shards: int = 1,
    experts: ExpertLayout | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint and returns `directory`, which is created.

    Args:
        kind: architecture: Qwen3-VL-MoE, Qwen3-VL, or the text-only models.
        tied: the head is the embedding, and the checkpoint has no head.
        shards: over 1: that many files and an index, tensors dealt out in turn.
        experts: layout of the expert weights; None: as models of this kind are published.
        dtype: of the weights.
        seed: of the weights.
        text: keys of the text config to change.
        vision: keys of the vision config to change.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = make_model(kind, tied=tied, seed=seed, text=text, vision=vision).to(dtype)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if tied:
        del tensors["lm_head.weight"]
    tensors = _lay_out_experts(tensors, experts or ("separate" if kind == "text_moe" else "in_out"))
    _save(tensors, directory, shards)
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    for path in DEMO_FILES.iterdir():
        if path.name != "config.json" and path.suffix in (".json", ".jinja"):
            shutil.copy(path, directory)
    return directory


def make_model(
    kind: Kind,
    *,
    tied: bool = False,
    seed: int = 0,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The reference model in float32, in eval mode."""
    vocabulary = demo_vocabulary()
    text_config = {
        **_TEXT,
        **(_MOE if kind in ("moe", "text_moe") else {}),
        "vocab_size": vocabulary.size,
        "bos_token_id": vocabulary.end_of_text,
        "eos_token_id": vocabulary.end_of_turn,
        "pad_token_id": vocabulary.end_of_text,
        "tie_word_embeddings": tied,
        "initializer_range": _TEXT_STD,
        **(text or {}),
    }
    torch.manual_seed(seed)
    model: PreTrainedModel
    if kind == "text_moe":
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**text_config, rope_parameters=dict(_ROPE)))
    elif kind == "text_dense":
        model = Qwen3ForCausalLM(Qwen3Config(**text_config, rope_parameters=dict(_ROPE)))
    else:
        frequencies = text_config["head_dim"] // 2
        third = frequencies // 3
        section = [frequencies - 2 * third, third, third]
        config_class = Qwen3VLMoeConfig if kind == "moe" else Qwen3VLConfig
        config = config_class(
            text_config={
                **text_config,
                "rope_parameters": {**_ROPE, "mrope_section": section, "mrope_interleaved": True},
            },
            vision_config={**_VISION, "initializer_range": _VISION_STD, **(vision or {})},
            image_token_id=vocabulary.image,
            video_token_id=vocabulary.video,
            vision_start_token_id=vocabulary.vision_start,
            vision_end_token_id=vocabulary.vision_end,
            tie_word_embeddings=tied,
        )
        model = (Qwen3VLMoeForConditionalGeneration if kind == "moe" else Qwen3VLForConditionalGeneration)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def _lay_out_experts(tensors: dict[str, torch.Tensor], experts: ExpertLayout) -> dict[str, torch.Tensor]:
    if experts == "out_in":
        return tensors
    result = {}
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if not prefix.endswith("mlp.experts"):
            result[name] = tensor
        elif experts == "in_out":
            result[name] = tensor.transpose(1, 2).contiguous()
        else:
            for i, expert in enumerate(tensor):
                parts = zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True)
                for part, weight in parts if last == "gate_up_proj" else [(last, expert)]:
                    result[f"{prefix}.{i}.{part}.weight"] = weight.contiguous()
    return result


def _save(tensors: dict[str, torch.Tensor], directory: Path, shards: int) -> None:
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        shard = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        names = sorted(tensors)[i::shards]
        save_file({name: tensors[name] for name in names}, directory / shard, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, shard))
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
