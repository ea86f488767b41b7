from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.models.config import UnsupportedModelError, load_config, parse_config
from tests.checkpoints import DEMO_FILES

# as published: rope_scaling beside rope_theta, and the older model_type of the vision tower
MOE: dict[str, Any] = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": False,
    "text_config": {
        "dtype": "bfloat16",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 262144,
        "mlp_only_layers": [1],
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "vocab_size": 151936,
    },
    "vision_config": {
        "deepstack_visual_indexes": [8, 16, 24],
        "depth": 27,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "in_channels": 3,
        "intermediate_size": 4304,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
TEXT: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "torch_dtype": "float32",
    "tie_word_embeddings": True,
    **{key: value for key, value in MOE["text_config"].items() if key not in ("rope_scaling", "dtype")},
}


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one key set, or removed for None."""
    result = copy.deepcopy(raw)
    *sections, key = path.split(".")
    section = result
    for name in sections:
        section = section[name]
    if value is None:
        del section[key]
    else:
        section[key] = value
    return result


def test_as_published() -> None:
    config = parse_config(MOE)
    assert config.levels == 3
    assert config.dtype == "bfloat16"
    assert config.text.rope_theta == 5e6
    assert config.text.mrope_section == (24, 20, 20)
    assert config.text.moe is not None
    assert config.text.moe.sparse_layers == (True, False, True, True)
    assert config.text.moe.normalize_topk
    assert config.vision is not None
    assert config.vision.deepstack_indexes == (8, 16, 24)
    assert config.vision.patch_dim == 1536
    assert config.image_token_id == 151655


def test_as_transformers_5_writes_it() -> None:
    raw = copy.deepcopy(MOE)
    text = raw["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": float(text.pop("rope_theta"))}
    text["num_local_experts"] = text.pop("num_experts")
    assert parse_config(raw) == parse_config(MOE)


def test_text_only() -> None:
    config = parse_config(TEXT)
    assert config.vision is None
    assert config.levels == 0
    assert config.text.mrope_section is None
    assert config.text.tie_word_embeddings
    assert config.text.moe is not None
    assert not config.text.moe.normalize_topk
    assert config.dtype == "float32"
    assert config.image_token_id is None


def test_the_demo() -> None:
    assert load_config(DEMO_FILES).architecture == "Qwen3VLMoeForConditionalGeneration"


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("architectures", ["LlamaForCausalLM"], "LlamaForCausalLM"),
        ("architectures", ["Qwen2_5_VLForConditionalGeneration"], "Qwen2_5_VLForConditionalGeneration"),
        ("architectures", [], "none"),
        ("quantization_config", {"quant_method": "awq"}, "awq"),
        ("quantization_config", {"quant_method": "gptq"}, "gptq"),
        ("text_config.quantization_config", {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ("quantization_config", {"quant_method": "fp8"}, "weight_block_size None"),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [64, 64]}, r"\[64, 64\]"),
        ("text_config.rope_scaling.rope_type", "yarn", "yarn"),
        ("text_config.rope_scaling.mrope_interleaved", False, "mrope_interleaved"),
        ("text_config.hidden_act", "gelu", "gelu"),
        ("text_config.use_sliding_window", True, "sliding-window"),
        ("vision_config.hidden_act", "relu", "relu"),
    ],
)
def test_what_is_not_served_is_refused_by_name(path: str, value: Any, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=name):
        parse_config(changed(MOE, path, value))


def test_block_fp8_is_read() -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
    assert parse_config(changed(MOE, "quantization_config", quantization)) == parse_config(MOE)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("text_config.hidden_size", None, "lacks 'hidden_size'"),
        ("text_config.hidden_size", "2048", "'hidden_size' is '2048'"),
        ("text_config.vocab_size", True, "'vocab_size' is True"),
        ("text_config.rope_theta", None, "lacks 'rope_theta'"),
        ("text_config.rope_scaling.mrope_section", [24, 20, 10], "mrope_section"),
        ("text_config.num_key_value_heads", 5, "32 attention heads"),
        ("text_config.num_experts_per_tok", 129, "129 experts per token"),
        ("vision_config.deepstack_visual_indexes", [8, 16, 27], "not ascending blocks of 27"),
        ("vision_config.deepstack_visual_indexes", [16, 8, 24], "not ascending"),
        ("vision_config.out_hidden_size", 4096, "4096 values, the decoder takes 2048"),
        ("text_config.num_hidden_layers", 2, "3 deepstack levels for 2 decoder layers"),
        ("image_token_id", None, "lacks 'image_token_id'"),
    ],
)
def test_nonsense_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(changed(MOE, path, value))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="LoRA"):
        load_config(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_config(tmp_path)


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MOE))
    assert load_config(tmp_path) == parse_config(MOE)


@pytest.mark.parametrize("module", ["common.models.config", "common.models.mrope", "common.models.roles"])
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
