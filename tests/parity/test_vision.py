"""The vision tower against transformers': main and each deepstack level, for packed items of many shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from common.models.config import ModelConfig, load_config
from common.models.qwen3_vl import Qwen3VLForConditionalGeneration
from common.models.weights import load_vision
from tests.checkpoints import write_checkpoint

# items of one batch: images, videos, the smallest grid, extreme shapes, grids larger than the position table's 16
BATCHES = [
    [(1, 4, 6)],
    [(1, 2, 2), (1, 8, 4), (1, 2, 40)],
    [(4, 4, 4), (1, 4, 4), (2, 6, 2), (3, 4, 4)],
    [(1, 24, 20), (1, 38, 2)],
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["moe", "dense"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def config(directory: Path) -> ModelConfig:
    return load_config(directory)


@pytest.fixture(scope="module")
def model(directory: Path) -> Qwen3VLForConditionalGeneration:
    return load_vision(directory, dtype=torch.float32)


@pytest.fixture(scope="module")
def reference(directory: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    return loaded.eval()


def pixels(config: ModelConfig, grids: list[tuple[int, int, int]], seed: int = 0) -> torch.Tensor:
    assert config.vision is not None
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(t * h * w for t, h, w in grids), config.vision.patch_dim, generator=generator)


@pytest.mark.parametrize("grids", BATCHES)
@torch.inference_mode()
def test_main_and_levels(
    grids: list[tuple[int, int, int]],
    config: ModelConfig,
    model: Qwen3VLForConditionalGeneration,
    reference: PreTrainedModel,
) -> None:
    pixel_values, grid_thw = pixels(config, grids), torch.tensor(grids)
    expected = reference.model.visual(pixel_values, grid_thw=grid_thw)
    handed_out: dict[int, torch.Tensor] = {}
    main, deepstack = model.separate_deepstack_embeds(
        model.visual(pixel_values, grid_thw, on_level=handed_out.__setitem__)
    )
    assert len(expected.deepstack_features) == config.levels == 3
    assert expected.pooler_output.std() > 0.5  # not degenerate
    torch.testing.assert_close(main, expected.pooler_output, atol=TOLERANCE, rtol=0)
    for i, level in enumerate(expected.deepstack_features):
        size = config.text.hidden_size
        torch.testing.assert_close(deepstack[:, i * size : (i + 1) * size], level, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(handed_out[i], deepstack[:, i * size : (i + 1) * size], atol=0, rtol=0)
    assert list(handed_out) == [0, 1, 2]


@torch.inference_mode()
def test_bfloat16_rounds_where_the_reference_does(directory: Path, config: ModelConfig) -> None:
    grids = [(1, 4, 6), (2, 8, 4)]
    pixel_values, grid_thw = pixels(config, grids), torch.tensor(grids)
    exact = load_vision(directory, dtype=torch.float32).visual(pixel_values, grid_thw)
    ours = load_vision(directory, dtype=torch.bfloat16).visual(pixel_values, grid_thw)
    reference = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16).eval()
    output = reference.model.visual(pixel_values.bfloat16(), grid_thw=grid_thw)
    theirs = torch.cat([output.pooler_output, *output.deepstack_features], dim=1)
    assert ours.dtype == torch.bfloat16
    # both are off by the same amount of rounding, and closer to each other than to float32
    assert (ours - exact).abs().mean() < 1.1 * (theirs - exact).abs().mean()
    assert (ours - theirs).abs().mean() < (theirs - exact).abs().mean()


@torch.inference_mode()
def test_an_item_does_not_depend_on_its_batch(config: ModelConfig, model: Qwen3VLForConditionalGeneration) -> None:
    grids = [(1, 4, 6), (3, 4, 4), (1, 4, 4), (1, 2, 2)]
    pixel_values = pixels(config, grids)
    packed = model.visual(pixel_values, torch.tensor(grids))
    alone = [
        model.visual(patches, torch.tensor([grid]))
        for grid, patches in zip(grids, pixel_values.split([t * h * w for t, h, w in grids]), strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_a_video_can_be_cut_between_temporal_patches(
    config: ModelConfig, model: Qwen3VLForConditionalGeneration
) -> None:
    pixel_values = pixels(config, [(5, 4, 6)])
    whole = model.visual(pixel_values, torch.tensor([[5, 4, 6]]))
    first = model.visual(pixel_values[: 2 * 24], torch.tensor([[2, 4, 6]]))
    rest = model.visual(pixel_values[2 * 24 :], torch.tensor([[3, 4, 6]]))
    torch.testing.assert_close(whole, torch.cat([first, rest]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("grid", "patches", "message"),
    [
        ((1, 3, 4), 12, "does not divide"),
        ((0, 4, 4), 0, "does not divide"),
        ((1, 4, 4), 15, r"shape \(15, 1536\), the grids make \(16, 1536\)"),
    ],
)
def test_grids_that_do_not_fit(
    grid: tuple[int, int, int], patches: int, message: str, model: Qwen3VLForConditionalGeneration
) -> None:
    with pytest.raises(ValueError, match=message):
        model.visual(torch.zeros(patches, 1536), torch.tensor([grid]))


@torch.inference_mode()
def test_levels_are_handed_out_before_later_blocks_run(
    config: ModelConfig, model: Qwen3VLForConditionalGeneration
) -> None:
    events: list[str] = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: events.append(f"block {i}"))
        for i, block in enumerate(model.visual.blocks)
    ]
    try:
        model.visual(
            pixels(config, [(1, 2, 2)]),
            torch.tensor([[1, 2, 2]]),
            on_level=lambda i, _: events.append(f"level {i}"),
        )
    finally:
        for hook in hooks:
            hook.remove()
    assert events == [
        *("block 0", "level 0", "block 1", "block 2", "level 1", "block 3", "block 4", "level 2", "block 5")
    ]
