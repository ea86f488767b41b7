"""A server holds the weights of its role and nothing of the other's: peak memory, measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.random_weights import MODEL_FILES, tensor_shapes, write_checkpoint

MIB = 1 << 20

_LOAD = """
import sys
from pathlib import Path
import torch
from common.models import weights

def peak():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

torch.zeros(1) + 1
before = peak()
model = getattr(weights, sys.argv[1])(Path(sys.argv[2]), dtype=torch.bfloat16)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tower of over 200 MB beside a decoder of about as much."""
    directory = tmp_path_factory.mktemp("big")
    config = json.loads((MODEL_FILES / "config.json").read_text())
    config["vision_config"].update(depth=12, hidden_size=1024, intermediate_size=2048, num_heads=16)
    config["text_config"].update(intermediate_size=2048, moe_intermediate_size=1216, num_experts=32)
    (directory / "config.json").write_text(json.dumps(config))
    return write_checkpoint(directory).parent


def role_bytes(checkpoint: Path, *, vision: bool) -> int:
    """bfloat16 bytes of the tensors of a role."""
    total = 0
    for name, shape in tensor_shapes(json.loads((checkpoint / "config.json").read_text())):
        if name.startswith("model.visual.") == vision:
            count = 1
            for size in shape:
                count *= size
            total += 2 * count
    return total


@pytest.mark.parametrize(("loader", "vision"), [("load_language", False), ("load_vision", True)])
def test_peak_memory_grows_by_the_roles_own_weights(checkpoint: Path, loader: str, vision: bool) -> None:
    own, other = role_bytes(checkpoint, vision=vision), role_bytes(checkpoint, vision=not vision)
    assert own > 200 * MIB
    assert other > 200 * MIB
    command = [sys.executable, "-c", _LOAD, loader, str(checkpoint)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert own * 0.9 < grown < own + other / 2, f"grew by {grown / MIB:.0f} MiB for {own / MIB:.0f} MiB of weights"
