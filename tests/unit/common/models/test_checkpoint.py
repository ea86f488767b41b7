from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.models.checkpoint import Checkpoint, CheckpointError, dequantize_fp8
from common.models.roles import Role

VISION, TEXT = "model.visual.pos_embed.weight", "model.language_model.norm.weight"


@contextlib.contextmanager
def opened(directory: Path, role: Role = "whole") -> Iterator[Checkpoint]:
    with contextlib.closing(Checkpoint(directory, role)) as checkpoint:
        yield checkpoint


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reads_what_safetensors_wrote(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5).to(dtype),
        "b": torch.randn(2, 4, 3).to(dtype),
        "scalar": torch.ones(()).to(dtype),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint:
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.read(name, dtype), tensor)
            assert torch.equal(checkpoint.read(name, torch.float32), tensor.float())
        assert torch.equal(checkpoint.read_slice("b", 1, dtype), tensors["b"][1])


def test_tensors_are_writable_memory_of_their_own(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint:
        checkpoint.read("a", torch.float32).zero_()
        assert checkpoint.read("a", torch.float32).sum() == 4


def test_shards_of_the_other_role_need_not_be_there(tmp_path: Path) -> None:
    save_file({VISION: torch.ones(2, 2)}, tmp_path / "vision.safetensors")
    write_index(tmp_path, {VISION: "vision.safetensors", TEXT: "text.safetensors"})
    with opened(tmp_path, "vision") as checkpoint:
        assert list(checkpoint.entries) == [VISION]
    with pytest.raises(CheckpointError, match=r"text\.safetensors is named by the index but is not there"):
        Checkpoint(tmp_path, "language")


def test_unread_and_progress(tmp_path: Path) -> None:
    save_file({VISION: torch.ones(2, 2), TEXT: torch.ones(6)}, tmp_path / "model.safetensors")
    seen: list[tuple[int, int]] = []
    with contextlib.closing(
        Checkpoint(tmp_path, "whole", lambda done, total: seen.append((done, total)))
    ) as checkpoint:
        assert checkpoint.unread == {VISION, TEXT}
        checkpoint.read(TEXT, torch.float32)
        assert checkpoint.unread == {VISION}
        checkpoint.read(VISION, torch.float32)
    assert seen == [(24, 40), (40, 40)]


def test_block_fp8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, scale = torch.randn(2, 200, 130).to(torch.float8_e4m3fn), torch.rand(2, 2, 2)
    save_file({"w": weight, "w_scale_inv": scale, "bare": weight.clone()}, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint:
        dequantized = checkpoint.read_slice("w", 1, torch.float32)
        assert dequantized[150, 129] == weight[1, 150, 129].float() * scale[1, 1, 1]
        assert dequantized[127, 128] == weight[1, 127, 128].float() * scale[1, 0, 1]
        assert dequantized[128, 127] == weight[1, 128, 127].float() * scale[1, 1, 0]
        with pytest.raises(CheckpointError, match="bare is fp8 but bare_scale_inv is missing"):
            checkpoint.read("bare", torch.float32)


def test_scales_of_a_wrong_shape() -> None:
    with pytest.raises(CheckpointError, match=r"scales of w \(4, 300\) have shape \(1, 2\), not \(1, 3\)"):
        dequantize_fp8("w", torch.zeros(4, 300, dtype=torch.float8_e4m3fn), torch.ones(1, 2), torch.float32)


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(64)}, path)
    whole = path.read_bytes()
    for content, message in (
        (b"", "header length is out of range"),
        (b"\xff" * 32, "header length is out of range"),
        ((4).to_bytes(8, "little") + b"nope", "header is not JSON"),
        (whole[:-1], "damaged or cut off at tensor a"),
        (whole.replace(b'"F32"', b'"I64"'), "dtype I64"),
        (whole.replace(b"[64]", b"[63]"), "damaged or cut off at tensor a"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            Checkpoint(tmp_path, "whole")


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        Checkpoint(tmp_path, "whole")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=r"tensor b\.weight is missing"):
        checkpoint.read("b.weight", torch.float32)
