"""python needs.py [EXTRA ...]: what the pyproject.toml in this folder requires, with these extras, a line each.

For layers of images that change less often than the code."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def needs(project: Path, extras: list[str]) -> list[str]:
    """Requirements of the package and its extras.

    Raises:
        KeyError: there is no such extra.
    """
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    optional: dict[str, list[str]] = table["optional-dependencies"]
    return [*table["dependencies"], *(need for extra in extras for need in optional[extra])]


if __name__ == "__main__":
    print("\n".join(needs(Path("pyproject.toml"), sys.argv[1:])))
