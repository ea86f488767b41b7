from __future__ import annotations

import pytest
import torch

from common.embeddings import EmbeddingLayout
from common.fake_embeddings import fake_embedding
from common.pb import common_pb2
from common.tensors import dtype_from_wire

KEY = bytes(range(32))


@pytest.mark.parametrize("dtype", [common_pb2.BFLOAT16, common_pb2.FLOAT32])
def test_every_value_is_finite_and_small(dtype: common_pb2.DType) -> None:
    layout = EmbeddingLayout(rows=100, hidden=192, levels=3, dtype=dtype)
    values = torch.frombuffer(bytearray(fake_embedding(KEY, layout)), dtype=dtype_from_wire(dtype))
    assert values.numel() == 100 * 192 * 4
    assert values.isfinite().all()
    assert values.abs().max() < 2
    assert values.std() > 0


def test_key_and_tensor_decide_and_rows_differ() -> None:
    layout = EmbeddingLayout(rows=600, hidden=192, levels=2, dtype=common_pb2.BFLOAT16)
    data = fake_embedding(KEY, layout)
    assert data == fake_embedding(KEY, layout)
    assert data != fake_embedding(bytes(32), layout)
    row = 192 * 2
    rows = [data[start : start + row] for start in range(0, len(data), row)]
    assert len(set(rows)) == len(rows)


def test_a_shorter_item_is_no_prefix_problem() -> None:
    """Main of a smaller item is the beginning of main of a larger one: rows have no length in them."""
    small = EmbeddingLayout(rows=3, hidden=8, levels=0, dtype=common_pb2.BFLOAT16)
    large = EmbeddingLayout(rows=9, hidden=8, levels=0, dtype=common_pb2.BFLOAT16)
    assert fake_embedding(KEY, large).startswith(fake_embedding(KEY, small))
