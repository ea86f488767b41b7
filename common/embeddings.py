"""The shape of one item's embedding, and how it lies in memory: `main`, then each deepstack level, side by side.

    offset 0            main         [rows, hidden]
    tensor_bytes        deepstack.0  [rows, hidden]
    2 * tensor_bytes    deepstack.1  [rows, hidden]
    ...

Each tensor is contiguous, so that a frame goes from and into memory in one piece. No torch here: the fakes and the
transports deal in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.pb import common_pb2
from common.pb import embedding_pb2 as pb

ITEM_SIZE = {common_pb2.BFLOAT16: 2, common_pb2.FLOAT32: 4}


@dataclass(frozen=True, kw_only=True)
class EmbeddingLayout:
    """Rows, hidden size, deepstack levels and dtype of one item.

    Raises:
        ValueError: a dtype that the wire doesn't carry, or nothing to carry.
    """

    rows: int
    hidden: int
    levels: int
    dtype: common_pb2.DType

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZE:
            raise ValueError(f"no such embedding dtype: {self.dtype}")
        if self.rows < 1 or self.hidden < 1 or self.levels < 0:
            raise ValueError(f"an embedding of {self.rows} rows, hidden size {self.hidden}, {self.levels} levels")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names in memory order: main, deepstack.0, deepstack.1, ..."""
        return ("main", *(f"deepstack.{i}" for i in range(self.levels)))

    @property
    def tensor_bytes(self) -> int:
        return self.rows * self.hidden * ITEM_SIZE[self.dtype]

    @property
    def total_bytes(self) -> int:
        return self.tensor_bytes * (1 + self.levels)

    def offset(self, tensor: str) -> int:
        """Where `tensor` starts. Raises ValueError for a name that the layout does not have."""
        if tensor == "main":
            return 0
        kind, _, level = tensor.partition(".")
        if kind != "deepstack" or not level.isdecimal() or str(int(level)) != level or int(level) >= self.levels:
            raise ValueError(f"no tensor {tensor!r} in an embedding of {self.levels} deepstack levels")
        return (1 + int(level)) * self.tensor_bytes

    def pieces(self, limit: int) -> Iterator[tuple[str, int, int]]:
        """(tensor, byte offset in it, length) of at most `limit` bytes each, in memory order."""
        for tensor in self.tensors:
            for offset in range(0, self.tensor_bytes, limit):
                yield tensor, offset, min(limit, self.tensor_bytes - offset)

    def to_wire(self) -> pb.EmbeddingLayout:
        return pb.EmbeddingLayout(rows=self.rows, hidden=self.hidden, levels=self.levels, dtype=self.dtype)

    @staticmethod
    def from_wire(message: pb.EmbeddingLayout) -> EmbeddingLayout:
        return EmbeddingLayout(rows=message.rows, hidden=message.hidden, levels=message.levels, dtype=message.dtype)
