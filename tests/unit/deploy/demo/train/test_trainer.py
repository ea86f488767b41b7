"""The loop: it learns, it is reproducible, it goes on where it stopped, and what it writes loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3VLMoeForConditionalGeneration

from common.models.weights import load_whole
from deploy.demo.random_weights import tensor_shapes
from deploy.demo.train.rendering import Renderer
from deploy.demo.train.trainer import TrainConfig, Trainer

MODEL_FILES = Path(__file__).parents[5] / "deploy" / "demo" / "model"


def config(out: Path, **changes: object) -> TrainConfig:
    return replace(TrainConfig(model_files=MODEL_FILES, out=out, steps=4, samples=2, report_every=1), **changes)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps in one go."""
    out = tmp_path_factory.mktemp("straight")
    Trainer(config(out), silent).run()
    return out


def test_a_resumed_training_ends_with_the_same_weights(trained: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    Trainer(config(tmp_path), silent).run(until=2)
    again = Trainer(config(tmp_path), lines.append)
    again.resume()
    again.run()
    assert lines[0] == "resumed after step 2"
    assert lines[-1].startswith("wrote ")
    straight, resumed = (load_file(folder / "model" / "model.safetensors") for folder in (trained, tmp_path))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_progress_shows_loss_and_scores(tmp_path: Path) -> None:
    lines: list[str] = []
    Trainer(config(tmp_path), lines.append).run(until=2)
    assert lines[0].startswith("step 1/4  ")
    assert "loss" in lines[0]
    assert "row shape 0." in lines[0]  # nothing is asked yet
    assert "grounding 0." in " ".join(lines)


def test_another_seed_is_another_training(trained: Path, tmp_path: Path) -> None:
    Trainer(config(tmp_path, seed=1), silent).run()
    name = "model.visual.merger.linear_fc1.weight"
    one, other = (load_file(folder / "model" / "model.safetensors")[name] for folder in (trained, tmp_path))
    assert not torch.equal(one, other)


def test_only_the_same_training_is_resumed(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no state\.safetensors"):
        Trainer(config(tmp_path), silent).resume()
    with pytest.raises(ValueError, match="4 steps with seed 0, not of 5"):
        Trainer(config(trained, steps=5), silent).resume()
    with pytest.raises(ValueError, match="seed 0, not of 4 with seed 3"):
        Trainer(config(trained, seed=3), silent).resume()


def test_the_checkpoint_is_as_published(trained: Path) -> None:
    folder = trained / "model"
    tensors = load_file(folder / "model.safetensors")
    shapes = dict(tensor_shapes(json.loads((folder / "config.json").read_text())))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert (folder / "model.safetensors").stat().st_size < 12_000_000
    model, info = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    load_whole(folder, dtype=torch.float32)
    experts = model.model.language_model.layers[1].mlp.experts.down_proj
    name = "model.language_model.layers.1.mlp.experts.down_proj"
    assert torch.equal(experts.bfloat16(), tensors[name].transpose(1, 2))


def test_it_learns_one_batch_by_heart(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, steps=10_000), silent)
    losses = []
    for _ in range(12):
        trainer._progress = replace(trainer._progress, step=3000)  # in the middle, always the same pictures
        trainer._step()
        losses.append(trainer._losses[-1])
    assert losses[-1] < losses[0] / 2


def test_coordinates_are_tokens() -> None:
    renderer = Renderer(MODEL_FILES)
    assert len(set(renderer.coordinate_ids)) == 101
    answer = renderer.answer('{"bbox_2d": [0, 10, 990, 1000]}')
    assert [renderer.coordinate_ids.index(token) for token in answer if token in renderer.coordinate_ids] == [
        0,
        1,
        99,
        100,
    ]
    assert renderer.decode(answer) == '{"bbox_2d": [0, 10, 990, 1000]}'
