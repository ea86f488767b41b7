from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.models.checkpoint import CheckpointError
from common.models.config import UnsupportedModelError, load_config
from common.models.decoder import Decoder
from common.models.layers import Linear, PackedWeight
from common.models.moe import Experts
from common.models.qwen3 import Qwen3ForCausalLM, Qwen3ForCausalLMWithDeepStack
from common.models.qwen3_moe import Qwen3MoeForCausalLM, Qwen3MoeForCausalLMWithDeepStack
from common.models.qwen3_vl import Qwen3VLForConditionalGeneration
from common.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration
from common.models.weights import load_language, load_vision, load_whole
from tests.checkpoints import ExpertLayout, Kind, write_checkpoint
from tests.paging import CachedSequence, PagedCache

IDS = torch.arange(3, 40)


def logits(directory: Path) -> torch.Tensor:
    """Of all rows of a fixed prompt, by the language side."""
    model = load_language(directory, dtype=torch.float32)
    batch = PagedCache(load_config(directory).text).batch([(CachedSequence(), len(IDS))], all_logits=True)
    with torch.inference_mode():
        return model(IDS, torch.arange(len(IDS)), batch)


def edit(directory: Path, **changes: torch.Tensor | None) -> None:
    """Sets tensors of a single-file checkpoint, or removes them."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("kind", "language", "whole"),
    [
        ("moe", Qwen3MoeForCausalLMWithDeepStack, Qwen3VLMoeForConditionalGeneration),
        ("dense", Qwen3ForCausalLMWithDeepStack, Qwen3VLForConditionalGeneration),
        ("text_moe", Qwen3MoeForCausalLM, None),
        ("text_dense", Qwen3ForCausalLM, None),
    ],
)
def test_classes(kind: Kind, language: type[nn.Module], whole: type[nn.Module] | None, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, kind)
    assert type(load_language(directory, dtype=torch.float32)) is language
    if whole is not None:
        assert type(load_whole(directory, dtype=torch.float32)) is whole
        assert type(load_vision(directory, dtype=torch.float32)) is whole
    else:
        with pytest.raises(UnsupportedModelError, match="no vision tower"):
            load_vision(directory, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["moe", "text_moe"])
def test_expert_layouts_are_the_same_model(kind: Kind, tmp_path: Path) -> None:
    layouts: tuple[ExpertLayout, ...] = ("in_out", "out_in", "separate")
    results = [logits(write_checkpoint(tmp_path / layout, kind, experts=layout)) for layout in layouts]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("size", [32, 64], ids=["gate_up square", "down square"])
def test_one_square_stack_is_decided_by_the_other(size: int, tmp_path: Path) -> None:
    """With hidden size 64, an intermediate size of 32 makes gate_up square, one of 64 down."""
    text = {"moe_intermediate_size": size}
    published = write_checkpoint(tmp_path / "in_out", "moe", text=text, experts="in_out")
    transposed = write_checkpoint(tmp_path / "out_in", "moe", text=text, experts="out_in")
    assert torch.equal(logits(published), logits(transposed))


def test_stacks_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "moe")
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    stack = load_file(directory / "model.safetensors")[name]
    edit(directory, **{name: stack.transpose(1, 2).contiguous()})
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.mlp\.experts.*\(8, 64, 96\) and \(8, 64, 48\), which fit neither"
    ):
        load_language(directory, dtype=torch.float32)


def test_shards_are_the_same_model(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one", "moe")
    many = write_checkpoint(tmp_path / "many", "moe", shards=4)
    assert len(list(many.glob("*.safetensors"))) == 4
    assert torch.equal(logits(one), logits(many))


def test_mixed_dense_and_sparse_layers(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "moe", text={"mlp_only_layers": [1], "decoder_sparse_step": 2})
    model = load_language(directory, dtype=torch.float32)
    assert [any(isinstance(module, Experts) for module in layer.modules()) for layer in model.model.layers] == [
        *(False, False, False, True, False)
    ]


def test_attention_bias(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "text_dense", text={"attention_bias": True})
    attention = load_language(directory, dtype=torch.float32).model.layers[0].self_attn
    tensors = load_file(directory / "model.safetensors")
    parts = [tensors[f"model.layers.0.self_attn.{name}_proj.bias"] for name in "qkv"]
    assert torch.equal(attention.qkv_proj.bias, torch.cat(parts))
    assert torch.equal(attention.o_proj.bias, tensors["model.layers.0.self_attn.o_proj.bias"])


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    tied = write_checkpoint(tmp_path / "tied", "dense", tied=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    expected = logits(tied)
    whole = load_whole(tied, dtype=torch.float32)
    batch = PagedCache(load_config(tied).text).batch([(CachedSequence(), len(IDS))], all_logits=True)
    assert torch.equal(whole(IDS, torch.arange(len(IDS)), batch), expected)
    # a head that is stored all the same must be the embedding
    embedding = load_file(tied / "model.safetensors")["model.language_model.embed_tokens.weight"]
    edit(tied, **{"lm_head.weight": embedding})
    assert torch.equal(logits(tied), expected)
    edit(tied, **{"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*differ"):
        load_language(tied, dtype=torch.float32)


def test_an_untied_head_is_needed(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "dense")
    edit(directory, **{"lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight is missing"):
        load_language(directory, dtype=torch.float32)


def test_a_wrong_shape_names_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "dense")
    edit(directory, **{"model.language_model.layers.2.self_attn.k_proj.weight": torch.zeros(64, 63)})
    message = r"layers\.2\.self_attn\.k_proj\.weight has shape \(64, 63\), config\.json asks for \(64, 64\)"
    with pytest.raises(CheckpointError, match=message):
        load_language(directory, dtype=torch.float32)


def test_tensors_without_a_place_are_errors_of_their_role_only(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "dense")
    edit(directory, **{"model.language_model.layers.9.mystery": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"1 tensors .* no place for: model\.language_model\.layers\.9\.mystery"):
        load_language(directory, dtype=torch.float32)
    load_vision(directory, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_a_role_reads_its_own_tensors_and_no_others(kind: Kind, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, kind)
    tensors = load_file(directory / "model.safetensors")
    visual = sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("model.visual."))
    everything = sum(tensor.nbytes for tensor in tensors.values())
    for load, expected in ((load_language, everything - visual), (load_vision, visual), (load_whole, everything)):
        seen: list[tuple[int, int]] = []
        load(directory, dtype=torch.float32, progress=lambda *counts: seen.append(counts))  # noqa: B023
        assert seen[-1] == (expected, expected)
        assert seen == sorted(seen)


def test_the_decoder_of_a_vision_only_model_is_never_constructed(tmp_path: Path) -> None:
    """Not on meta either: a config whose decoder can't be built is no obstacle."""
    directory = write_checkpoint(tmp_path, "moe")
    constructed: list[type[nn.Module]] = []

    class Recorder(Qwen3VLMoeForConditionalGeneration):
        def make_decoder(self, config: object) -> None:  # type: ignore[override]
            constructed.append(Decoder)

    model = Recorder(load_config(directory), vision_only=True)
    assert constructed == []
    assert model.model is None
    assert model.lm_head is None
    assert not any(isinstance(module, Decoder) for module in load_vision(directory, dtype=torch.float32).modules())


def test_a_vision_only_model_does_not_pretend_to_answer(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "dense")
    batch = PagedCache(load_config(directory).text).batch([(CachedSequence(), len(IDS))])
    with pytest.raises(ValueError, match="vision-only"):
        load_vision(directory, dtype=torch.float32)(IDS, torch.arange(len(IDS)), batch)


def test_no_deepstack_in_text_only_classes(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "text_moe")
    model = load_language(directory, dtype=torch.float32)
    batch = PagedCache(load_config(directory).text).batch([(CachedSequence(), len(IDS))])
    with pytest.raises(TypeError, match="input_deepstack_embeds"):
        model(IDS, torch.arange(len(IDS)), batch, input_deepstack_embeds=torch.zeros(1))
    assert not any("deepstack" in name for module in model.modules() for name in vars(module))


def quantize_fp8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix, or a stack of them, as float8, its random scales per 128 x 128 block, and what the two stand for."""
    rows, columns = -(-tensor.shape[-2] // 128), -(-tensor.shape[-1] // 128)
    scale = 0.5 + torch.rand(*tensor.shape[:-2], rows, columns)
    spread = scale.repeat_interleave(128, -2).repeat_interleave(128, -1)
    spread = spread[..., : tensor.shape[-2], : tensor.shape[-1]]
    quantized = (tensor / spread).to(torch.float8_e4m3fn)
    return quantized, scale, quantized.float() * spread


@pytest.mark.parametrize(("kind", "experts"), [("text_moe", "separate"), ("moe", "in_out"), ("moe", "out_in")])
def test_block_fp8_is_dequantised(kind: Kind, experts: ExpertLayout, tmp_path: Path) -> None:
    """Blocks at the edges are cut off; scales of stacked experts lie as their weights do."""
    text = {"hidden_size": 160, "moe_intermediate_size": 136, "num_hidden_layers": 3}
    directory = write_checkpoint(tmp_path, kind, experts=experts, text=text, vision={"out_hidden_size": 160})
    quantized, rounded = {}, {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if ".visual." not in name and name.endswith(("_proj", "_proj.weight")):
            quantized[name], quantized[f"{name}_scale_inv"], rounded[name] = quantize_fp8(tensor)
        else:
            quantized[name] = rounded[name] = tensor
    save_file(rounded, directory / "model.safetensors")
    expected = logits(directory)
    save_file(quantized, directory / "model.safetensors")
    assert torch.equal(logits(directory), expected)


def test_every_linear_is_packed_and_its_plain_weight_released(tmp_path: Path) -> None:
    model = load_language(write_checkpoint(tmp_path, "moe"), dtype=torch.bfloat16)
    if not PackedWeight.pays(torch.empty(1, dtype=torch.bfloat16)):
        pytest.skip("this processor has no packed layout")
    assert all(module.weight.numel() == 0 for module in model.modules() if isinstance(module, Linear))
    assert all(module.gate_up_proj.numel() == 0 for module in model.modules() if isinstance(module, Experts))


def test_transformers_is_not_imported() -> None:
    """It alone would cost seconds of every start."""
    code = "import sys, common.models.weights; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
