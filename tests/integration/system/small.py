"""A small one of such systems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.checkpoints import write_checkpoint
from tests.serving import Served, serving


@contextmanager
def small_system(folder: Path) -> Iterator[Served]:
    """In float32, in which it is exact; `folder` is for its files."""
    model = write_checkpoint(folder / "demo", "moe")
    options = ["--dtype", "float32", "--kv-cache-bytes", "64MiB", "--max-num-seqs", "16", "--max-model-len", "2048"]
    with serving(model, folder / "state.json", *options) as served:
        yield served
