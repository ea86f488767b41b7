"""Everything that touches the device: pixels in, rows of the tower's tensors out, in host memory.

Legend of shapes:  P patches · n visual tokens · H hidden size of the decoder · L deepstack levels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import torch

from common.embeddings import EmbeddingLayout
from common.tensors import dtype_to_wire
from encode_server.batcher import Piece

OnWritten = Callable[[Piece, str], None]

_CHECK_GRID = (1, 16, 16)  # of the input that `check` runs: large enough to tell the speed, small enough to be quick


class VisionModel(Protocol):
    """The encode side of a Qwen3-VL model, as `common.models.weights.load_vision` builds it."""

    def visual(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        on_level: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """[P, C*T*P*P], [items, 3] -> merged [n, H*(1+L)]; `on_level(i, [n, H])` as soon as level i is made."""

    def separate_deepstack_embeds(self, merged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """merged [n, H*(1+L)] -> main [n, H], deepstack [n, H*L]."""


class Encoder:
    """The vision tower on its device.

    On CUDA, rows go to (pinned) host memory on a stream of their own, beside the blocks that come after them.

    Args:
        model: the tower and the seed's way to split what it makes.
        hidden: H.
        levels: L.
        merge: patches along each side of one visual token.
        patch_dim: values of one patch, C*T*P*P.
        by_level: hand out each deepstack level as it is made; otherwise all tensors come at the end.
    """

    def __init__(
        self,
        model: VisionModel,
        *,
        hidden: int,
        levels: int,
        merge: int,
        patch_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        by_level: bool,
    ) -> None:
        self._model = model
        self._hidden = hidden
        self._levels = levels
        self._merge = merge
        self._patch_dim = patch_dim
        self._dtype = dtype
        self._device = device
        self._by_level = by_level
        self._copies = _SideStream(device) if device.type == "cuda" else None

    def layout(self, rows: int) -> EmbeddingLayout:
        """Of an item with `rows` visual tokens."""
        return EmbeddingLayout(rows=rows, hidden=self._hidden, levels=self._levels, dtype=dtype_to_wire(self._dtype))

    def buffer(self, size: int) -> memoryview:
        """`size` bytes of host memory for embeddings, fit to be copied to from the device. Not touched yet on CPU."""
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._copies is not None)
        return memory.numpy().data

    def stage(self, pixels: torch.Tensor) -> torch.Tensor:
        """Preprocessed patches `[P, C*T*P*P]` float32 as the tower takes them; for the threads that preprocess."""
        staged = pixels.to(self._dtype)
        return staged.pin_memory() if self._copies is not None else staged

    def check(self) -> int:
        """Runs the tower on a fixed input; raises what it raises. Returns the number of patches."""
        t, h, w = _CHECK_GRID
        grid = (t, h * self._merge // 2, w * self._merge // 2)
        patches = grid[0] * grid[1] * grid[2]
        with torch.inference_mode():
            pixels = torch.zeros(patches, self._patch_dim, dtype=self._dtype, device=self._device)
            merged = self._model.visual(pixels, torch.tensor([grid]))
            torch.isfinite(merged).all().item()  # waits for the device
        return patches

    def encode(self, batch: Sequence[Piece], on_written: OnWritten) -> None:
        """Runs the tower once and copies each piece's rows into its job's memory.

        Args:
            batch: pieces; tensors that a piece has from an earlier try (`written`) are left alone, for they may be
                on their way already.
            on_written: a piece's rows of one tensor are in place. Called from this thread, or from the one that
                watches the copies; `encode` returns after the last call.
        """
        pixels = torch.cat([piece.pixels for piece in batch]) if len(batch) > 1 else batch[0].pixels
        grids = torch.tensor([piece.grid for piece in batch])
        copies: list[Future[None]] = []

        def write(tensor: str, rows: torch.Tensor) -> None:
            copies.extend(self._write(batch, tensor, rows, on_written))

        def on_level(level: int, rows: torch.Tensor) -> None:
            write(f"deepstack.{level}", rows)

        try:
            with torch.inference_mode():
                merged = self._model.visual(
                    pixels.to(self._device, non_blocking=True), grids, on_level if self._by_level else None
                )
                main, deepstack = self._model.separate_deepstack_embeds(merged)
                if not self._by_level:
                    for level in range(self._levels):
                        on_level(level, deepstack[:, level * self._hidden : (level + 1) * self._hidden])
                write("main", main)
        finally:
            wait(copies)  # also when the tower failed half-way: a second try must not meet them
        for copy in copies:
            copy.result()

    def _write(
        self, batch: Sequence[Piece], tensor: str, rows: torch.Tensor, on_written: OnWritten
    ) -> Sequence[Future[None]]:
        """Copies `rows` [n, H] of the whole batch to the memories of its pieces."""
        pending, start = [], 0
        for piece in batch:
            count = piece.rows.stop - piece.rows.start
            if tensor not in piece.written:
                pending.append((piece, rows[start : start + count]))
            start += count
        if start != len(rows) or rows.shape[1] != self._hidden:
            raise ValueError(f"the tower made {tuple(rows.shape)} for {start} rows of {self._hidden} values")
        if self._copies is not None:
            return [self._copies.write([(_target(p, tensor), r, p) for p, r in pending], tensor, on_written)]
        for piece, own in pending:
            _target(piece, tensor).copy_(own)
            on_written(piece, tensor)
        return ()


def _target(piece: Piece, tensor: str) -> torch.Tensor:
    """The piece's rows [n, H] of `tensor` in its job's memory."""
    layout, dtype = piece.job.layout, piece.job.pixels.dtype
    assert dtype_to_wire(dtype) == layout.dtype
    whole = torch.frombuffer(
        piece.job.memory, dtype=dtype, count=layout.rows * layout.hidden, offset=layout.offset(tensor)
    )
    return whole.view(layout.rows, layout.hidden)[piece.rows]


class _SideStream:
    """Copies from a CUDA device to pinned memory while the tower goes on."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._watcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="copies")

    def write(
        self, copies: Sequence[tuple[torch.Tensor, torch.Tensor, Piece]], tensor: str, on_written: OnWritten
    ) -> Future[None]:
        """Starts (target, rows, piece) copies of rows that the current stream makes; done when all are in place."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            for target, rows, _ in copies:
                target.copy_(rows, non_blocking=True)
                rows.record_stream(self._stream)  # the allocator must not hand these rows out before they are copied
            done.record()

        def watch() -> None:
            done.synchronize()
            for _, _, piece in copies:
                on_written(piece, tensor)

        return self._watcher.submit(watch)
