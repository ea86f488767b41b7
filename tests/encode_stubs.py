"""A vision tower and media processing that take no time and can be stopped, so that scheduling can be tested exactly.

Media are text, "t,h,w,value": an item of that grid whose patches all hold `value`. The tower's main rows hold `value`,
its deepstack level i holds `value + i + 1`. Embeddings are float32.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.embeddings import EmbeddingLayout
from common.errors import BadMediaError
from common.media_key import media_digest
from common.pb import common_pb2
from common.processing import Grid, MediaOptions
from common.processor_config import read_rules
from encode_server.encoder import Encoder
from encode_server.engine import EncodeEngine
from encode_server.items import Opening
from encode_server.media.processor import MediaPlan
from encode_server.metrics import EncodeMetrics
from encode_server.preprocessor import Preprocessor

HIDDEN, LEVELS, MERGE, PATCH_DIM = 8, 3, 2, 4
ROW_BYTES = HIDDEN * (1 + LEVELS) * 4
POISON = -1.0  # a value that the tower can't take
UNREADABLE, UNDECODABLE, BUGGY = -2.0, -3.0, -4.0  # values whose header, or whose pixels, are bad; or hit a mistake
WAIT = 10.0  # seconds after which a test has failed

_CHECK = [(1, 16, 16)]  # what `Encoder.check` runs; it is neither recorded nor stopped
_RULES = read_rules(Path(__file__).parent.parent / "deploy" / "demo" / "model").image


class StubTower:
    """Has the seam of the models. While `gate` is clear, batches stop in it: `entered` counts those that came."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.level_gate = threading.Event()  # between the first level and the rest
        self.level_gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[tuple[int, ...]]] = []  # grids of each call
        self.values: list[list[float]] = []
        self.broken = False

    def visual(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        on_level: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        grids = [tuple(grid) for grid in grid_thw.tolist()]
        sizes = [t * h * w for t, h, w in grids]
        assert sum(sizes) == len(pixel_values)
        if grids != _CHECK:
            self.batches.append(grids)
            self.values.append([float(part[0, 0]) for part in pixel_values.split(sizes)])
            self.entered.release()
            assert self.gate.wait(WAIT)
        if self.broken or (pixel_values == POISON).any():
            raise RuntimeError("a device error")
        main = pixel_values.view(-1, MERGE * MERGE * PATCH_DIM).mean(1, keepdim=True).expand(-1, HIDDEN)
        levels = [main + i + 1 for i in range(LEVELS)]
        for i, level in enumerate(levels):
            if on_level is not None:
                on_level(i, level)
            assert self.level_gate.wait(WAIT)
        return torch.cat([main, *levels], dim=1)

    def separate_deepstack_embeds(self, merged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return merged[:, :HIDDEN], merged[:, HIDDEN:]


class StubProcessor:
    """Reads "t,h,w,value"; has the interface of `MediaProcessor`. While `gate` is clear, pixels stop in it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.planned = 0
        self.decoded: list[float] = []

    def plan(
        self,
        kind: common_pb2.MediaKind,
        parts: Sequence[bytes],
        options: MediaOptions,
        is_cancelled: Callable[[], bool] = bool,
    ) -> MediaPlan:
        self.planned += 1
        t, h, w, value = _read(parts)
        if value == UNREADABLE:
            raise BadMediaError("no header")
        return MediaPlan(kind=kind, rules=_RULES, grid=Grid(t=t, h=h, w=w), source_pixels=256 * h * w)

    def patches(
        self, plan: MediaPlan, parts: Sequence[bytes], out: None = None, is_cancelled: Callable[[], bool] = bool
    ) -> torch.Tensor:
        assert self.gate.wait(WAIT)
        *_, value = _read(parts)
        self.decoded.append(value)
        if value == UNDECODABLE:
            raise BadMediaError("cut off")
        if value == BUGGY:
            raise ZeroDivisionError("a mistake of ours")
        return torch.full((plan.grid.patches, PATCH_DIM), value)


def media(value: float, *, grid: tuple[int, int, int] = (1, 4, 4)) -> bytes:
    """One item; of four rows (512 bytes of embedding) by default."""
    return ",".join(map(str, (*grid, value))).encode()


def opening(data: bytes, *, request_id: str = "request", key: bytes | None = None) -> Opening:
    return Opening(
        key=key or hashlib.sha256(data).digest(),
        kind=common_pb2.IMAGE,
        options=MediaOptions(),
        sizes=(len(data),),
        digest=media_digest([data]),
        request_id=request_id,
    )


def embedding(value: float, rows: int) -> bytes:
    """What the tower makes of an item."""
    tensors = [torch.full((rows, HIDDEN), value + i) for i in range(1 + LEVELS)]
    return torch.cat(tensors).numpy().tobytes()


def layout(rows: int) -> EmbeddingLayout:
    return EmbeddingLayout(rows=rows, hidden=HIDDEN, levels=LEVELS, dtype=common_pb2.FLOAT32)


def make_encoder(tower: StubTower, *, by_level: bool = True) -> Encoder:
    return Encoder(
        tower,
        hidden=HIDDEN,
        levels=LEVELS,
        merge=MERGE,
        patch_dim=PATCH_DIM,
        dtype=torch.float32,
        device=torch.device("cpu"),
        by_level=by_level,
    )


def make_engine(
    tower: StubTower,
    processor: StubProcessor,
    metrics: EncodeMetrics,
    *,
    cache_rows: int = 64,
    max_batch_patches: int = 64,
    max_waiting_items: int = 16,
    max_waiting_bytes: int = 1 << 20,
    threads: int = 2,
) -> EncodeEngine:
    """Not started. Call it inside the event loop."""
    return EncodeEngine(
        make_encoder(tower),
        Preprocessor(processor, threads=threads),  # type: ignore[arg-type]
        metrics,
        cache_bytes=cache_rows * ROW_BYTES,
        max_batch_patches=max_batch_patches,
        max_waiting_items=max_waiting_items,
        max_waiting_bytes=max_waiting_bytes,
    )


def _read(parts: Sequence[bytes]) -> tuple[int, int, int, float]:
    t, h, w, value = parts[0].decode().split(",")
    return int(t), int(h), int(w), float(value)
