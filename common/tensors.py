"""Names of tensor dtypes: on the command line and in config.json, on the wire, and torch's own."""

from __future__ import annotations

import torch

from common.pb import common_pb2 as pb

# name, torch, wire; what the system computes and ships in.
_DTYPES = (
    ("bfloat16", torch.bfloat16, pb.BFLOAT16),
    ("float32", torch.float32, pb.FLOAT32),
)


def resolve_device(name: str) -> torch.device:
    """ "auto" (CUDA if there is any), "cpu", "cuda" or "cuda:N". Raises ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"no such device: {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch finds no CUDA device")
    return device


def torch_dtype(name: str) -> torch.dtype:
    """`"bfloat16"` or `"float32"` as torch's dtype; ValueError for another name."""
    for known, dtype, _ in _DTYPES:
        if known == name:
            return dtype
    raise ValueError(f"dtype {name!r} is not supported, only {', '.join(known for known, _, _ in _DTYPES)}")


def dtype_name(dtype: torch.dtype) -> str:
    """The inverse of `torch_dtype`; ValueError for a dtype that the system does not compute in."""
    for name, known, _ in _DTYPES:
        if known == dtype:
            return name
    raise ValueError(f"{dtype} is not a dtype of this system")


def dtype_to_wire(dtype: torch.dtype) -> pb.DType:
    """The wire's name of `dtype`; ValueError for a dtype that the wire does not carry."""
    for _, known, wire in _DTYPES:
        if known == dtype:
            return wire
    raise ValueError(f"the wire does not carry {dtype}")


def dtype_from_wire(wire: pb.DType) -> torch.dtype:
    """The inverse of `dtype_to_wire`; ValueError for a value of a newer version."""
    for _, dtype, known in _DTYPES:
        if known == wire:
            return dtype
    raise ValueError(f"no such embedding dtype: {wire}")
