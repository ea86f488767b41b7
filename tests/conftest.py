"""For all tests: no hub, and no OpenMP threads that spin while the machine is shared. Set before torch is imported."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
