"""Options of `epd encode`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import Address, CommonOptions, Size, option
from common.transport.senders import TransportChoice

LevelShipping = Literal["eager", "whole", "auto"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(CommonOptions):
    """Serves the vision tower: media in, embeddings out to language servers."""

    model: str = option(help="checkpoint: a directory or a hub id", metavar="DIR-or-hub-id")
    revision: str | None = option(None, help="of a hub id: branch, tag or commit")
    listen: Address = option("127.0.0.1:9001", help="gRPC address")
    metrics_listen: Address | None = option("127.0.0.1:9101", help="Prometheus address")
    transport: TransportChoice = option("auto", help="data plane to language servers; auto: the one that each prefers")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "bfloat16", "float32"] = option(
        "auto", help="of weights and embeddings; has to be the language servers'. auto: the checkpoint's"
    )
    encode_cache_bytes: Size = option(0, help="pool of finished embeddings; 0: an eighth of the memory, 4GiB at most")
    max_batch_patches: int = option(
        0, help="patches in one pass of the vision tower; 0: 16384 on CUDA, 2048 on CPU, where larger ones gain nothing"
    )
    max_waiting_items: int = option(512, help="media items beyond which new ones are refused as overload")
    max_waiting_bytes: Size = option(1 << 30, help="media bytes held, beyond which new items are refused as overload")
    max_item_bytes: Size = option(256 << 20, help="media bytes of one item")
    preprocess_threads: int = option(0, help="threads that decode and resize; 0: as many as cores, 8 at most")
    ship_levels: LevelShipping = option(
        "auto",
        help="when a deepstack level is sent: eager, as soon as it is made; whole, with the finished item; "
        "auto: eager where the link takes longer than the vision tower",
    )
    drain_seconds: float = option(30.0, help="after SIGTERM: seconds to finish and ship what was begun")
    stall_seconds: float = option(120.0, help="seconds without progress after which health says NOT_SERVING")
    give_up_seconds: float = option(
        300.0, help="seconds of that after which the process ends for its supervisor to start it anew; 0: never"
    )

    def __post_init__(self) -> None:
        for name in ("max_waiting_items", "max_waiting_bytes", "max_item_bytes", "stall_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        if self.max_item_bytes > self.max_waiting_bytes:
            raise ValueError(
                f"--max-item-bytes {self.max_item_bytes} is over --max-waiting-bytes {self.max_waiting_bytes}:"
                " such an item could never be taken"
            )
        for name in ("max_batch_patches", "preprocess_threads", "drain_seconds", "give_up_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")

    @property
    def cache_bytes(self) -> int:
        """The pool's size, resolved."""
        return self.encode_cache_bytes or min(4 << 30, memory_bytes() // 8)

    def batch_patches(self, device_type: str) -> int:
        """Budget of a batch on "cpu" or "cuda", resolved."""
        return self.max_batch_patches or (16384 if device_type == "cuda" else 2048)

    @property
    def workers(self) -> int:
        """Threads for preprocessing, resolved."""
        return self.preprocess_threads or min(8, len(os.sched_getaffinity(0)))


def memory_bytes() -> int:
    """Of this machine, or what its container may use of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(physical, int(limit)) if limit.isdecimal() else physical
