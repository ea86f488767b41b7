from __future__ import annotations

import pytest
import torch

from common.pb import common_pb2 as pb
from common.tensors import dtype_from_wire, dtype_name, dtype_to_wire, torch_dtype


@pytest.mark.parametrize(
    ("name", "dtype", "wire"), [("bfloat16", torch.bfloat16, pb.BFLOAT16), ("float32", torch.float32, pb.FLOAT32)]
)
def test_names(name: str, dtype: torch.dtype, wire: pb.DType) -> None:
    assert torch_dtype(name) == dtype_from_wire(wire) == dtype
    assert dtype_name(dtype) == name
    assert dtype_to_wire(dtype) == wire


def test_others_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        torch_dtype("float16")
    with pytest.raises(ValueError, match="float64"):
        dtype_name(torch.float64)
    with pytest.raises(ValueError, match="float16"):
        dtype_to_wire(torch.float16)
    with pytest.raises(ValueError, match="0"):
        dtype_from_wire(pb.DTYPE_UNSPECIFIED)
