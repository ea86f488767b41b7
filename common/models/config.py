"""A checkpoint's config.json as frozen dataclasses. What we can't serve is refused here, by name.

Two spellings of the rotary parameters are read: `rope_parameters` (transformers 5) and `rope_scaling` beside
`rope_theta` (as published). No torch in this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

VISION_LANGUAGE_ARCHITECTURES = ("Qwen3VLMoeForConditionalGeneration", "Qwen3VLForConditionalGeneration")
TEXT_ARCHITECTURES = ("Qwen3MoeForCausalLM", "Qwen3ForCausalLM")
_MOE_ARCHITECTURES = ("Qwen3VLMoeForConditionalGeneration", "Qwen3MoeForCausalLM")

# Rows and columns of a weight that share one scale in a block-FP8 checkpoint.
FP8_BLOCK = (128, 128)


class UnsupportedModelError(ValueError):
    """The checkpoint is of a kind that this system does not serve; the message names the kind."""


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Routing of the sparse layers. `sparse_layers[i]` says whether decoder layer i is one."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalize_topk: bool
    sparse_layers: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder. `mrope_section` (frequencies for t, h, w) is None for a model with plain rotary positions."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int] | None
    attention_bias: bool
    tie_word_embeddings: bool
    max_position_embeddings: int
    moe: MoEConfig | None


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower. Level i of deepstack is tapped after block `deepstack_indexes[i]`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    rope_theta: float
    deepstack_indexes: tuple[int, ...]

    @property
    def levels(self) -> int:
        return len(self.deepstack_indexes)

    @property
    def patch_dim(self) -> int:
        """Values of one flattened patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One checkpoint; `vision` and the ids of its placeholders are None for a text-only architecture."""

    architecture: str
    text: TextConfig
    vision: VisionConfig | None
    image_token_id: int | None
    video_token_id: int | None
    vision_start_token_id: int | None
    vision_end_token_id: int | None
    dtype: str

    @property
    def levels(self) -> int:
        """Deepstack levels that the decoder takes."""
        return self.vision.levels if self.vision else 0


def load_config(model_dir: Path) -> ModelConfig:
    """Reads `config.json` of a checkpoint directory.

    Raises:
        FileNotFoundError: there is none.
        UnsupportedModelError: another family, a quantization that we don't read, or an adapter.
        ValueError: a key is missing or has a value that makes no sense; the message names it.
    """
    path = model_dir / "config.json"
    if not path.is_file():
        if (model_dir / "adapter_config.json").is_file():
            raise UnsupportedModelError("the directory holds a LoRA adapter; merge it into its base model first")
        raise FileNotFoundError(f"{model_dir} has no config.json")
    return parse_config(json.loads(path.read_text()))


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """`config.json`'s content, already decoded. Raises as `load_config` does."""
    architectures = _get(raw, "architectures", list)
    architecture = architectures[0] if len(architectures) == 1 else ", ".join(map(str, architectures)) or "none"
    if architecture not in VISION_LANGUAGE_ARCHITECTURES + TEXT_ARCHITECTURES:
        served = ", ".join(VISION_LANGUAGE_ARCHITECTURES + TEXT_ARCHITECTURES)
        raise UnsupportedModelError(f"architecture {architecture} is not supported (supported: {served})")
    _refuse_quantization(raw)
    if architecture in TEXT_ARCHITECTURES:
        text, vision = raw, None
    else:
        text, vision = _get(raw, "text_config", dict), _parse_vision(_get(raw, "vision_config", dict))
    config = ModelConfig(
        architecture=architecture,
        text=_parse_text(
            text,
            moe=architecture in _MOE_ARCHITECTURES,
            mrope=vision is not None,
            tie_word_embeddings=_get(raw, "tie_word_embeddings", bool, False),
        ),
        vision=vision,
        image_token_id=_get(raw, "image_token_id", int) if vision else None,
        video_token_id=_get(raw, "video_token_id", int) if vision else None,
        vision_start_token_id=_get(raw, "vision_start_token_id", int) if vision else None,
        vision_end_token_id=_get(raw, "vision_end_token_id", int) if vision else None,
        dtype=_parse_dtype(raw, text),
    )
    if vision is not None:
        _check_pair(config.text, vision)
    return config


def _parse_text(raw: Mapping[str, Any], *, moe: bool, mrope: bool, tie_word_embeddings: bool) -> TextConfig:
    if (act := raw.get("hidden_act", "silu")) != "silu":
        raise UnsupportedModelError(f"activation {act!r} in the decoder is not supported, only silu")
    if raw.get("use_sliding_window", False):
        raise UnsupportedModelError("sliding-window attention is not supported")
    num_heads, num_layers = _get(raw, "num_attention_heads", int), _get(raw, "num_hidden_layers", int)
    hidden_size = _get(raw, "hidden_size", int)
    num_kv_heads = _get(raw, "num_key_value_heads", int, num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} attention heads do not divide over {num_kv_heads} key-value heads")
    head_dim = _get(raw, "head_dim", int, hidden_size // num_heads)
    rope_theta, mrope_section = _parse_rope(raw, head_dim=head_dim, mrope=mrope)
    return TextConfig(
        vocab_size=_get(raw, "vocab_size", int),
        hidden_size=hidden_size,
        intermediate_size=_get(raw, "intermediate_size", int),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_get(raw, "rms_norm_eps", float, 1e-6),
        rope_theta=rope_theta,
        mrope_section=mrope_section,
        attention_bias=_get(raw, "attention_bias", bool, False),
        tie_word_embeddings=tie_word_embeddings,
        max_position_embeddings=_get(raw, "max_position_embeddings", int),
        moe=_parse_moe(raw, num_layers, vision_language=mrope) if moe else None,
    )


def _parse_moe(raw: Mapping[str, Any], num_layers: int, *, vision_language: bool) -> MoEConfig:
    # transformers 5 saves num_experts as num_local_experts
    num_experts = _get(raw, "num_experts" if "num_experts" in raw else "num_local_experts", int)
    experts_per_token = _get(raw, "num_experts_per_tok", int)
    if not 0 < experts_per_token <= num_experts:
        raise ValueError(f"{experts_per_token} experts per token of {num_experts} experts")
    step = _get(raw, "decoder_sparse_step", int, 1)
    dense = set(raw.get("mlp_only_layers") or ())
    return MoEConfig(
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        intermediate_size=_get(raw, "moe_intermediate_size", int),
        # the vision-language models always renormalise, whatever the key says
        normalize_topk=vision_language or _get(raw, "norm_topk_prob", bool, False),
        sparse_layers=tuple(i not in dense and (i + 1) % step == 0 for i in range(num_layers)),
    )


def _parse_rope(raw: Mapping[str, Any], *, head_dim: int, mrope: bool) -> tuple[float, tuple[int, int, int] | None]:
    rope: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    # Qwen2-VL wrote "mrope" where transformers 5 writes "default"
    if kind not in ("default", "mrope"):
        raise UnsupportedModelError(f"rotary embedding of type {kind!r} is not supported, only default")
    theta = _get(rope if "rope_theta" in rope else raw, "rope_theta", float)
    if not mrope:
        return theta, None
    if not rope.get("mrope_interleaved", True):
        raise UnsupportedModelError("mrope_interleaved false is not supported: Qwen3-VL interleaves t, h and w")
    section = tuple(_get(rope, "mrope_section", list))
    if len(section) != 3 or sum(section) != head_dim // 2:
        raise ValueError(f"mrope_section {list(section)} does not share out {head_dim // 2} frequencies over t, h, w")
    return theta, section


def _parse_vision(raw: Mapping[str, Any]) -> VisionConfig:
    if (act := raw.get("hidden_act", "gelu_pytorch_tanh")) != "gelu_pytorch_tanh":
        raise UnsupportedModelError(f"activation {act!r} in the vision tower is not supported")
    config = VisionConfig(
        depth=_get(raw, "depth", int),
        hidden_size=_get(raw, "hidden_size", int),
        intermediate_size=_get(raw, "intermediate_size", int),
        num_heads=_get(raw, "num_heads", int),
        in_channels=_get(raw, "in_channels", int, 3),
        patch_size=_get(raw, "patch_size", int),
        temporal_patch_size=_get(raw, "temporal_patch_size", int),
        merge_size=_get(raw, "spatial_merge_size", int),
        out_hidden_size=_get(raw, "out_hidden_size", int),
        num_position_embeddings=_get(raw, "num_position_embeddings", int),
        rope_theta=_get(raw.get("rope_parameters") or {}, "rope_theta", float, 10000.0),
        deepstack_indexes=tuple(_get(raw, "deepstack_visual_indexes", list)),
    )
    indexes = config.deepstack_indexes
    if list(indexes) != sorted(set(indexes)) or any(not 0 <= i < config.depth for i in indexes):
        raise ValueError(f"deepstack_visual_indexes {list(indexes)} are not ascending blocks of {config.depth}")
    if config.hidden_size % config.num_heads or config.hidden_size // config.num_heads % 4:
        raise ValueError(f"vision hidden size {config.hidden_size} over {config.num_heads} heads: not a multiple of 4")
    return config


def _check_pair(text: TextConfig, vision: VisionConfig) -> None:
    if vision.out_hidden_size != text.hidden_size:
        raise ValueError(
            f"the vision tower makes {vision.out_hidden_size} values, the decoder takes {text.hidden_size}"
        )
    if vision.levels > text.num_layers:
        raise ValueError(f"{vision.levels} deepstack levels for {text.num_layers} decoder layers")


def _refuse_quantization(raw: Mapping[str, Any]) -> None:
    """Only block-FP8 is read (`weight_scale_inv`, one scale for 128 x 128 values); it is dequantised at load."""
    text: Mapping[str, Any] = raw.get("text_config") or {}
    quantization = raw.get("quantization_config") or text.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method")
    if method != "fp8":
        raise UnsupportedModelError(f"quantization {method!r} is not supported, only block-wise fp8 is")
    block = quantization.get("weight_block_size")
    if list(block or ()) != list(FP8_BLOCK):
        raise UnsupportedModelError(f"fp8 with weight_block_size {block} is not supported, only {list(FP8_BLOCK)} is")


def _parse_dtype(raw: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """The dtype that the checkpoint was made in; transformers 5 calls the key `dtype`, before it was `torch_dtype`."""
    for section in (raw, text):
        for key in ("dtype", "torch_dtype"):
            if section.get(key) is not None:
                return str(section[key])
    return "bfloat16"


_T = TypeVar("_T")


def _get(raw: Mapping[str, Any], key: str, kind: type[_T], default: _T | None = None) -> _T:
    """`raw[key]`, checked to be of `kind` (an integer passes for a float); ValueError that names the key."""
    value = raw.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"config.json lacks {key!r}")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)  # type: ignore[call-arg]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"config.json: {key!r} is {value!r}, which is not of type {kind.__name__}")
    return value
