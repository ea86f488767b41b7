"""The images, and what they must not have in them; the compose files that build them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.compose.project import Project

ROLES = ("encode", "language", "router")
TAG = "drill"  # those that this machine runs are left alone
NODES = {"ENCODE_ADDRESS": "10.255.77.1", "LANGUAGE_ADDRESS": "10.255.77.2"}  # of the files for two machines
_ROUTER_BYTES = 150e6  # of layers above the base image
_COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "as", "ld", "make", "nvcc")


def build(project: Project, variables: Mapping[str, str]) -> str:
    """Builds all, and raises AssertionError if one is not as it should be.

    Args:
        project: of the file for one host.
        variables: of the environment of `docker`.
    """
    _check_files(variables)
    project.compose("build", "--quiet")
    project.docker(
        "build", "--quiet", "--file", "deploy/Dockerfile", "--target", "all", "--tag", f"epd-all:{TAG}",
        "--build-arg", f"TORCH_INDEX={variables['TORCH_INDEX']}", ".",
    )  # fmt: skip
    for role in (*ROLES, "all"):
        (facts,) = json.loads(project.docker("image", "inspect", f"epd-{role}:{TAG}"))
        config = facts["Config"]
        assert config["User"] == "10001:10001", config["User"]
        assert config["Healthcheck"]["Test"], role
        # one at a time: of several names dash looks at the first only
        found = _inside(
            project, role, "sh", "-c", f"for name in {' '.join(_COMPILERS)}; do command -v $name; done; true"
        )
        assert not found.strip(), f"{role}: {found}"
    for package in ("torch", "transformers"):
        program = f"import importlib.util as u; assert not u.find_spec('{package}')"
        _inside(project, "router", "python", "-c", program)
    size = _own_bytes(project, "router")
    assert size < _ROUTER_BYTES, f"{size / 1e6:.0f} MB"
    return f"router {size / 1e6:.0f} MB above its base, encode {_own_bytes(project, 'encode') / 1e6:.0f} MB"


def _check_files(variables: Mapping[str, str]) -> None:
    """Compose understands all of them, those for GPUs too."""
    Project(variables, profiles=["observability"]).compose("config", "--quiet")
    for node in ("encode", "language"):
        files = (f"node-{node}.compose.yaml", f"node-{node}.gpu.compose.yaml")
        for number in (1, 2):
            Project({**variables, **NODES}, *files[:number]).compose("config", "--quiet")


def _inside(project: Project, role: str, *command: str) -> str:
    """What a command writes in a fresh container without network."""
    entry, *arguments = command
    options = ("--rm", "--network=none", "--read-only", f"--entrypoint={entry}")
    return project.docker("run", *options, f"epd-{role}:{TAG}", *arguments)


def _own_bytes(project: Project, role: str) -> int:
    """Of the layers that are not those of the base image."""
    layers = project.docker("history", "--human=false", "--format={{.Size}} {{.CreatedBy}}", f"epd-{role}:{TAG}")
    ours = [line for line in layers.splitlines() if "buildkit" in line]
    assert ours, layers
    return sum(int(line.split()[0]) for line in ours)
