"""Environments of programs that tests use and that must not be in the one of the tests, made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def prepare_python(folder: Path, pins: Path) -> Path:
    """Makes an environment unless it is there.

    Args:
        folder: of the environment.
        pins: a requirements file.

    Returns:
        The folder of its programs.

    Raises:
        subprocess.CalledProcessError: it can't be made, say without a network.
    """
    if not is_made(folder, pins):
        print(f"== setting up {folder.name}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(folder))
        run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(pins))
        mark_made(folder, pins)
    return folder / "bin"


def is_made(folder: Path, pins: Path) -> bool:
    """An interrupted installation is not, nor one of other versions."""
    stamp = folder / "made-of"
    return stamp.exists() and stamp.read_bytes() == pins.read_bytes()


def mark_made(folder: Path, pins: Path) -> None:
    shutil.copy(pins, folder / "made-of")


def run(*command: str) -> None:
    """Raises subprocess.CalledProcessError."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
