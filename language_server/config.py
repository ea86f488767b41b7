"""Options of the language server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from common.config import Address, CommonOptions, Size, option


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(CommonOptions):
    """The language server: token ids in, token ids out."""

    model: str = option(help="checkpoint directory or hub id", metavar="DIR-OR-ID")
    revision: str | None = option(None, help="of the hub id")
    listen: Address = option("127.0.0.1:9002", help="gRPC address")
    data_listen: Address = option("127.0.0.1:9003", help="address of the embedding data plane")
    data_advertise: Address | None = option(None, help="the data plane's address as encode servers see it")
    metrics_listen: Address | None = option("127.0.0.1:9102", help="Prometheus address")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "bfloat16", "float32"] = option("auto", help="auto: the checkpoint's")
    max_model_len: int = option(0, help="longest prompt and answer together, in tokens; 0: the model's own")
    max_num_seqs: int = option(64, help="requests that run at once")
    max_step_tokens: int = option(1024, help="tokens of one step, decodes and prefill chunks together")
    max_waiting: int = option(1024, help="requests that wait; more are refused")
    block_size: int = option(16, help="tokens of a KV block")
    prefix_caching: bool = option(True, help="reuse the KV blocks of equal prompt beginnings")
    kv_cache_bytes: Size = option(0, help="0: computed from the memory that is left")
    gpu_memory_fraction: float = option(0.9, help="of the GPU's memory, for weights and KV cache")
    inbox_bytes: Size = option(0, help="room for received embeddings; 0: computed")
    drain_seconds: float = option(30.0, help="after SIGTERM, before running requests are moved elsewhere")
    stall_seconds: float = option(120.0, help="without a step while there is work: not serving any more")
    give_up_seconds: float = option(
        300.0, help="of not serving, after which the process ends for its supervisor to start it anew; 0: never"
    )

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_step_tokens", "max_waiting", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} has to be at least 1")
        if self.max_model_len < 0:
            raise ValueError("--max-model-len must not be negative")
        if not self.stall_seconds > 0:
            raise ValueError("--stall-seconds has to be over 0")
        for name in ("drain_seconds", "give_up_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} is a number of seconds, 0 or more")
        if not 0 < self.gpu_memory_fraction <= 1:
            raise ValueError("--gpu-memory-fraction is a number over 0, at most 1")
