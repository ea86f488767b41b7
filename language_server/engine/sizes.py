"""How much memory the engine takes where nobody said: sensible defaults, computed from what the machine has."""

from __future__ import annotations

from pathlib import Path

import torch

_GIB = 1 << 30


def available_bytes() -> int:
    """Main memory that can be had now, without swapping: what the kernel says, within the control group's limit."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    limit, usage = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and usage.is_file() and limit.read_text().strip().isdecimal():
        available = min(available, int(limit.read_text()) - int(usage.read_text()))
    return max(available, 0)


def default_inbox_bytes() -> int:
    """A sixteenth of the available memory, 1 GiB at most: about 4 images of the largest size for a 30B-A3B."""
    return max(64 << 20, min(_GIB, available_bytes() // 16))


def default_kv_cache_bytes(device: torch.device, gpu_memory_fraction: float) -> int:
    """On a GPU what `gpu_memory_fraction` of its memory leaves beside what is allocated already; else a quarter of
    the available memory, 4 GiB at most. Called after the weights are loaded."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * gpu_memory_fraction) - (total - free))
    return min(4 * _GIB, available_bytes() // 4)
