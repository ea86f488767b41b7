from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.embeddings import EmbeddingLayout
from common.models.config import VisionConfig
from common.models.vision import Qwen3_VisionTransformer
from common.processing import Grid
from common.tensors import dtype_to_wire
from encode_server.batcher import Job, Piece, cut
from encode_server.encoder import Encoder
from tests.encode_stubs import StubTower, embedding, layout, make_encoder

HIDDEN, MERGE = 24, 2
CONFIG = VisionConfig(
    depth=4,
    hidden_size=16,
    intermediate_size=32,
    num_heads=2,
    in_channels=3,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=MERGE,
    out_hidden_size=HIDDEN,
    num_position_embeddings=16,
    rope_theta=10000.0,
    deepstack_indexes=(0, 1, 2),
)
GRIDS = ((1, 4, 6), (3, 4, 4), (1, 2, 2))


class Model:
    """The encode side of a model with random weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.visual = Qwen3_VisionTransformer(CONFIG)
        for parameter in self.visual.parameters():
            parameter.data = torch.randn_like(parameter).mul_(0.2).to(dtype)

    def separate_deepstack_embeds(self, merged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return merged[:, :HIDDEN], merged[:, HIDDEN:]


def encoder(model: Model, dtype: torch.dtype, *, by_level: bool) -> Encoder:
    return Encoder(
        model,
        hidden=HIDDEN,
        levels=3,
        merge=MERGE,
        patch_dim=CONFIG.patch_dim,
        dtype=dtype,
        device=torch.device("cpu"),
        by_level=by_level,
    )


def jobs(dtype: torch.dtype, patch_dim: int = CONFIG.patch_dim) -> list[Job]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for t, h, w in GRIDS:
        shape = EmbeddingLayout(rows=t * h * w // MERGE**2, hidden=HIDDEN, levels=3, dtype=dtype_to_wire(dtype))
        made.append(
            Job(
                request_id="request",
                grid=Grid(t=t, h=h, w=w),
                pixels=torch.randn(t * h * w, patch_dim, generator=generator).to(dtype),
                layout=shape,
                memory=memoryview(bytearray(b"\xff" * shape.total_bytes)),
                report=lambda event: None,
            )
        )
    return made


def pieces(batch: list[Job], max_patches: int = 1 << 20) -> list[Piece]:
    return [piece for job in batch for piece in cut(job, max_patches)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_level", [True, False])
def test_memory_holds_what_separate_deepstack_embeds_makes_of_the_towers_output(
    dtype: torch.dtype, by_level: bool
) -> None:
    model, batch = Model(dtype), jobs(dtype)
    written: list[tuple[int, str]] = []
    todo = pieces(batch)
    encoder(model, dtype, by_level=by_level).encode(todo, lambda piece, name: written.append((todo.index(piece), name)))

    with torch.inference_mode():
        merged = model.visual(torch.cat([job.pixels for job in batch]), torch.tensor(GRIDS))
    start = 0
    for job in batch:
        main, deepstack = model.separate_deepstack_embeds(merged[start : start + job.layout.rows])
        tensors = [main, *deepstack.split(HIDDEN, dim=1)]
        expected = b"".join(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors)
        assert bytes(job.memory) == expected
        start += job.layout.rows
    # the levels first, each for the whole batch; main comes out of the tower's end
    order = ["deepstack.0", "deepstack.1", "deepstack.2", "main"]
    assert written == [(i, name) for name in order for i in range(len(batch))]


def test_cutting_a_video_in_time_changes_nothing() -> None:
    model = Model(torch.float32)
    whole, parts = jobs(torch.float32), jobs(torch.float32)
    encoder(model, torch.float32, by_level=True).encode(pieces(whole), lambda piece, name: None)
    for piece in pieces(parts, max_patches=16):
        encoder(model, torch.float32, by_level=True).encode([piece], lambda piece, name: None)
    for one, other in zip(whole, parts, strict=True):
        tensors = [torch.frombuffer(job.memory, dtype=torch.float32) for job in (one, other)]
        torch.testing.assert_close(*tensors, atol=1e-5, rtol=1e-5)


def test_a_second_try_leaves_alone_what_may_be_on_its_way() -> None:
    tower = StubTower()
    job = Job(
        request_id="request",
        grid=Grid(t=1, h=4, w=4),
        pixels=torch.full((16, 4), 5.0),
        layout=layout(4),
        memory=memoryview(bytearray(layout(4).total_bytes)),
        report=lambda event: None,
    )
    (piece,) = cut(job, 64)
    piece.written.add("deepstack.0")
    written: list[str] = []
    make_encoder(tower).encode([piece], lambda piece, name: written.append(name))
    assert written == ["deepstack.1", "deepstack.2", "main"]
    start, size = job.layout.offset("deepstack.0"), job.layout.tensor_bytes
    assert bytes(job.memory[start : start + size]) == bytes(size)
    assert bytes(job.memory[:size]) == embedding(5.0, 4)[:size]


def test_a_tower_of_another_shape_is_noticed() -> None:
    tower = StubTower()
    job = Job(
        request_id="request",
        grid=Grid(t=1, h=4, w=4),
        pixels=torch.zeros(16, 4),
        layout=layout(3),  # one row short of what the tower will make
        memory=memoryview(bytearray(layout(4).total_bytes)),
        report=lambda event: None,
    )
    with pytest.raises(ValueError, match="4, 8"):
        make_encoder(tower).encode(list(cut(job, 64)), lambda piece, name: None)


def test_the_pools_buffer_is_plain_writable_memory() -> None:
    buffer = make_encoder(StubTower()).buffer(4096)
    assert buffer.nbytes == 4096
    assert not buffer.readonly


def test_nothing_of_transformers_is_imported() -> None:
    sources = Path(__file__).parents[3].joinpath("encode_server").rglob("*.py")
    assert not [path for path in sources if "import transformers" in path.read_text()]
