"""Sensible defaults for sizes that nobody gave, computed from what the machine has."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30


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
    return max(64 << 20, min(GIB, available_bytes() // 16))
