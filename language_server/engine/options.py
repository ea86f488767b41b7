"""What the operator decides about the engine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the operator decides; goes to the engine's process as JSON. Zero sizes are computed."""

    model_dir: str
    dtype: str = "auto"
    device: str = "cpu"
    max_model_len: int = 0
    max_num_seqs: int = 64
    max_step_tokens: int = 1024
    max_waiting: int = 1024
    kv_cache_bytes: int = 0
    gpu_memory_fraction: float = 0.9
    block_size: int = 16
    prefix_caching: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> EngineOptions:
        return EngineOptions(**json.loads(text))
