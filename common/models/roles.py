"""Which tensors of a checkpoint, and so which of its files, a server needs. No torch in this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Role = Literal["language", "vision", "whole"]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_VISION_PREFIX = "model.visual."


def belongs_to(name: str, role: Role) -> bool:
    """Whether a server of `role` loads the tensor `name`: the vision tower's are one role's, all others the other's."""
    return role == "whole" or name.startswith(_VISION_PREFIX) == (role == "vision")


def role_files(weight_map: Mapping[str, str], role: Role) -> list[str]:
    """Names of the shards that hold a tensor of `role`, sorted.

    Args:
        weight_map: tensor name -> shard name, as under `weight_map` in the index.
    """
    return sorted({shard for name, shard in weight_map.items() if belongs_to(name, role)})
