"""Reads tensors from a published checkpoint: safetensors files, one or sharded with an index.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, the header in JSON
(`name -> dtype, shape, data_offsets`), then the data. Tensors are read into memory of their own instead of through the
library's memory map: pages of a map count for the process as long as it stands, which doubles the peak of a server
that packs its weights, and a slice of a stacked tensor can be read alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.models.config import FP8_BLOCK
from common.models.roles import INDEX_FILE, SINGLE_FILE, Role, belongs_to, role_files

ProgressCallback = Callable[[int, int], None]

_MAX_HEADER = 100 << 20  # the format's own limit
_MAX_READ = 1 << 30  # Linux reads at most 2 GiB at once

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn,
}


class CheckpointError(ValueError):
    """The files are damaged, incomplete or do not fit config.json; the message names file or tensor."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies. `offset` counts from the start of the file."""

    shard: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """The tensors of one role. Only shards that hold one are opened, and only tensors that are asked for are read.

    Attributes:
        entries: by name, every tensor of the role.
        unread: names in `entries` that nothing has read so far.

    Raises:
        CheckpointError: a shard is missing, damaged, or has a dtype that we don't read.
    """

    def __init__(self, model_dir: Path, role: Role, progress: ProgressCallback | None = None) -> None:
        self.entries: dict[str, TensorEntry] = {}
        self._files: dict[str, int] = {}
        try:
            for shard in _shards(model_dir, role):
                self._open(model_dir / shard, role)
        except BaseException:
            self.close()
            raise
        self.unread = set(self.entries)
        self._progress = progress
        self._total = sum(entry.nbytes for entry in self.entries.values())
        self._done = 0

    def _open(self, path: Path, role: Role) -> None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CheckpointError(f"{path.name} is named by the index but is not there") from None
        self._files[path.name] = file
        self.entries.update(_read_header(file, path.name, role))

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def entry(self, name: str) -> TensorEntry:
        """Raises CheckpointError if there is no tensor `name`."""
        if name not in self.entries:
            raise CheckpointError(f"tensor {name} is missing")
        return self.entries[name]

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor in `dtype`, dequantised if it is block-FP8."""
        return self._convert(name, self._read_rows(name, None), None, dtype)

    def read_slice(self, name: str, index: int, dtype: torch.dtype) -> torch.Tensor:
        """`tensor[index]`, read alone: one expert of a stack."""
        return self._convert(name, self._read_rows(name, index), index, dtype)

    def _convert(self, name: str, tensor: torch.Tensor, index: int | None, dtype: torch.dtype) -> torch.Tensor:
        if tensor.dtype != torch.float8_e4m3fn:
            return tensor.to(dtype)
        scale_name = f"{name}_scale_inv"
        if scale_name not in self.entries:
            raise CheckpointError(f"tensor {name} is fp8 but {scale_name} is missing")
        return dequantize_fp8(name, tensor, self._read_rows(scale_name, index), dtype)

    def _read_rows(self, name: str, index: int | None) -> torch.Tensor:
        entry = self.entry(name)
        shape, offset, nbytes = entry.shape, entry.offset, entry.nbytes
        if index is not None:
            shape, nbytes = shape[1:], nbytes // shape[0]
            offset += index * nbytes
        data = torch.empty(nbytes, dtype=torch.uint8)
        view = data.numpy().data
        done = 0
        while done < nbytes:
            count = os.preadv(self._files[entry.shard], [view[done : done + _MAX_READ]], offset + done)
            if count == 0:
                raise CheckpointError(f"{entry.shard} ends before tensor {name} does")
            done += count
        self.unread.discard(name)
        self._done += nbytes
        if self._progress:
            self._progress(self._done, self._total)
        return data.view(entry.dtype).view(shape)


def dequantize_fp8(name: str, weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`weight * scale`, each scale spread over its block of `FP8_BLOCK` values (the last ones may be cut off).

    Args:
        weight: `[out, in]` float8_e4m3fn.
        scale: `[ceil(out / 128), ceil(in / 128)]`.
    """
    rows, columns = FP8_BLOCK
    expected = tuple(math.ceil(size / block) for size, block in zip(weight.shape, FP8_BLOCK, strict=True))
    if scale.shape != expected:
        raise CheckpointError(f"scales of {name} {tuple(weight.shape)} have shape {tuple(scale.shape)}, not {expected}")
    spread = scale.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (weight.float() * spread[: weight.shape[0], : weight.shape[1]]).to(dtype)


def _shards(model_dir: Path, role: Role) -> list[str]:
    index = model_dir / INDEX_FILE
    if index.is_file():
        weight_map = json.loads(index.read_text()).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{INDEX_FILE} has no weight_map")
        return role_files(weight_map, role)
    if not (model_dir / SINGLE_FILE).is_file():
        raise CheckpointError(f"{model_dir} has neither {INDEX_FILE} nor {SINGLE_FILE}")
    return [SINGLE_FILE]


def _read_header(file: int, shard: str, role: Role) -> dict[str, TensorEntry]:
    size = os.fstat(file).st_size
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise CheckpointError(f"{shard} is not a safetensors file: its header length is out of range")
    try:
        header = json.loads(os.pread(file, length, 8))
    except ValueError:
        raise CheckpointError(f"{shard} is not a safetensors file: its header is not JSON") from None
    entries = {}
    for name, raw in header.items():
        if name == "__metadata__" or not belongs_to(name, role):
            continue
        if raw["dtype"] not in _DTYPES:
            raise CheckpointError(f"tensor {name} has dtype {raw['dtype']}, which is not supported")
        begin, end = raw["data_offsets"]
        entry = TensorEntry(
            shard=shard, dtype=_DTYPES[raw["dtype"]], shape=tuple(raw["shape"]), offset=8 + length + begin
        )
        if entry.nbytes != end - begin or 8 + length + end > size:
            raise CheckpointError(f"{shard} is damaged or cut off at tensor {name}")
        entries[name] = entry
    return entries
