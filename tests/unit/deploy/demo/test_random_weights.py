from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, Qwen3VLMoeForConditionalGeneration

from deploy.demo.random_weights import MODEL_FILES, tensor_shapes, write_checkpoint


def config() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((MODEL_FILES / "config.json").read_text(encoding="utf-8"))
    return parsed


@pytest.mark.parametrize("tied", [True, False])
def test_names_and_shapes_are_those_of_the_reference(tied: bool) -> None:
    reference = AutoConfig.from_pretrained(MODEL_FILES)
    reference.tie_word_embeddings = reference.text_config.tie_word_embeddings = tied
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(reference)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    ours = dict(tensor_shapes({**config(), "tie_word_embeddings": tied}))
    for name, (experts, outputs, inputs) in ((n, s) for n, s in expected.items() if ".experts." in n):
        expected[name] = (experts, inputs, outputs)  # published the other way round
    assert ours == expected


def test_transformers_loads_every_tensor(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    _, info = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_the_checkpoint_is_complete_and_small(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "model")
    assert {path.name for path in weights.parent.iterdir()} == {
        *(path.name for path in MODEL_FILES.iterdir()),
        "model.safetensors",
    }
    assert weights.stat().st_size < 12_000_000
    with safe_open(weights, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
        norm = file.get_tensor("model.language_model.norm.weight")
        assert norm.float().std() > 0.05, "a norm of ones would hide a mistake"


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (
        write_checkpoint(tmp_path / name, seed=seed).read_bytes() for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(FileExistsError):
        write_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"text_config": {"mlp_only_layers": [0]}}, "experts"),
    ],
)
def test_other_models_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        list(tensor_shapes({**config(), **change}))
