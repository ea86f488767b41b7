"""The files of docker compose: what can be said of them without an engine. The rest is `make test-compose`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import parse
from deploy.needs import needs
from deploy.programs import PROGRAMS
from tests.compose.engine import CACHE

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
FILES = ("compose.yaml", "node-encode.compose.yaml", "node-language.compose.yaml")
GPU_FILES = ("node-encode.gpu.compose.yaml", "node-language.gpu.compose.yaml")
OURS = ("router", "encode", "language")
TRACES = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
}
HUB = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"}
# What README.md has firewalls pass, and what Prometheus asks: service -> port -> the variable with the address.
PUBLISHED = {
    "node-encode.compose.yaml": {"encode": {9001: "ENCODE_ADDRESS", 9101: "METRICS_BIND"}},
    "node-language.compose.yaml": {
        "router": {8000: "EPD_BIND"},
        "language": {9003: "LANGUAGE_ADDRESS", 9102: "METRICS_BIND"},  # not 9002: the router is on the same machine
    },
}
METRICS = {9101, 9102}
LAST_WORDS_S = {"router": 10.0}  # after it has drained: 5 s for answers, 5 s for connections


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / file).read_text())["services"]
    return found


def variables(file: str) -> set[str]:
    lines = [line for line in (DEPLOY / file).read_text().splitlines() if not line.startswith("#")]
    handed_on = {name for service in services(file).values() for name in passed(service)}
    return handed_on | set(re.findall(r"\$\{(\w+)", "\n".join(lines)))


def passed(service: dict[str, Any]) -> set[str]:
    """Variables that a container has if compose has them: an empty one would not be the same as none."""
    return {name for name, value in service.get("environment", {}).items() if value is None}


@pytest.mark.parametrize("file", FILES)
def test_services_are_walled_in(file: str) -> None:
    for name, service in services(file).items():
        if name not in OURS:
            continue
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        config: Any = PROGRAMS[name].config_class()
        needed = config.drain_seconds + LAST_WORDS_S.get(name, 0.0)
        assert float(service["stop_grace_period"].removesuffix("s")) > needed, name
        stages = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
        assert service["build"]["target"] in stages, name


@pytest.mark.parametrize("file", FILES)
def test_traces_hub_and_log_can_be_set(file: str) -> None:
    ours = {name: service for name, service in services(file).items() if name in OURS}
    assert ours
    for name, service in ours.items():
        assert passed(service) == (TRACES if name == "router" else TRACES | HUB), name
        prefix = f"EPD_{name.upper()}_"
        level, form = f"{prefix}LOG_LEVEL", f"{prefix}LOG_FORMAT"
        assert service["environment"][level] == "${LOG_LEVEL:-}", name
        assert service["environment"][form] == "${LOG_FORMAT:-}", name
        needed = {} if name == "router" else {f"{prefix}MODEL": "demo"}
        for given, meant in ((("", ""), ("info", "text")), (("debug", "json"), ("debug", "json"))):
            variables = {level: given[0], form: given[1], **needed}
            config = parse(PROGRAMS[name].config_class(), name, [], variables)
            assert (config.log_level, config.log_format) == meant


def test_only_the_router_is_reached_from_outside() -> None:
    found = services("compose.yaml")
    default = {name: service for name, service in found.items() if not service.get("profiles")}
    assert default.keys() == set(OURS)
    assert [name for name, service in default.items() if service.get("ports")] == ["router"]
    assert [name for name, service in default.items() if "edge" in service["networks"]] == ["router"]
    for service in found.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("file", PUBLISHED)
def test_machines_publish_what_the_other_one_needs(file: str) -> None:
    published: dict[str, dict[int, str]] = {}
    for name, service in services(file).items():
        assert "network_mode" not in service, name  # that of the host would publish all
        published[name] = {}
        for entry in service.get("ports", ()):
            port = re.fullmatch(r"\$\{(\w+)(.*?)\}:(\S+):(\d+)", entry)
            assert port is not None, entry
            variable, fallback, outside, inside = port.groups()
            # Loopback, or no start at all: an empty address would be every one that the machine has.
            required = f"${{{variable}:?" in (DEPLOY / file).read_text()
            assert required or fallback == ":-127.0.0.1", entry
            assert outside in (inside, f"${{EPD_PORT:-{inside}}}"), entry
            published[name][int(inside)] = variable
    assert published == PUBLISHED[file]


def test_firewalls_pass_what_is_published() -> None:
    (sentence,) = re.findall(
        r"^Let the firewalls pass (.*?) Nothing else", (ROOT / "README.md").read_text(), re.M | re.S
    )
    published = {port for file in PUBLISHED.values() for ports in file.values() for port in ports}
    assert {int(port) for port in re.findall(r"\b\d{4}\b", sentence)} == published - METRICS


@pytest.mark.parametrize("file", GPU_FILES)
def test_a_server_gets_the_gpus_of_its_machine(file: str) -> None:
    role = file.removeprefix("node-").partition(".")[0]
    ((name, service),) = services(file).items()
    assert name == role  # compose merges it into that of the file beside it
    assert service.keys().isdisjoint({"ports", "network_mode"})
    # By number, and not by `device_ids`: both together are an error.
    devices = [{"driver": "nvidia", "count": "${GPUS:-1}", "capabilities": ["gpu"]}]
    assert service["deploy"] == {"resources": {"reservations": {"devices": devices}}}
    assert service["shm_size"] == "${SHM_SIZE:-1gb}"
    environ = {f"EPD_{role.upper()}_MODEL": "demo", **service["environment"]}
    config: Any = parse(PROGRAMS[role].config_class(), role, [], environ)
    assert config.device == "cuda"


@pytest.mark.parametrize("file", FILES)
def test_torch_comes_from_where_the_dockerfile_says(file: str) -> None:
    (index,) = re.findall(r"^ARG TORCH_INDEX=(\S+)$", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    for name, service in services(file).items():
        if name not in OURS:
            continue
        # `-` and not `:-`, for an empty one is an answer: pip's own index.
        args = {} if name == "router" else {"TORCH_INDEX": f"${{TORCH_INDEX-{index}}}"}
        assert service["build"].get("args", {}) == args, name


@pytest.mark.parametrize("file", [*FILES, *GPU_FILES])
def test_every_variable_is_explained(file: str) -> None:
    explained = (DEPLOY / ".env.example").read_text()
    explained += "\n".join(line for line in (DEPLOY / file).read_text().splitlines() if line.startswith("#"))
    assert not {name for name in variables(file) if not re.search(rf"\b{name}\b", explained)}


@pytest.mark.parametrize("files", [(file,) for file in FILES] + [(FILES[1], GPU_FILES[0]), (FILES[2], GPU_FILES[1])])
def test_docker_compose_takes_them(files: tuple[str, ...]) -> None:
    compose = ["docker", "compose"]
    environ = {**os.environ, "ENCODE_ADDRESS": "10.0.0.1", "LANGUAGE_ADDRESS": "10.0.0.2"}
    if (CACHE / "docker-config").exists():  # that of `make test-compose`
        environ.setdefault("DOCKER_CONFIG", str(CACHE / "docker-config"))
    if (
        shutil.which("docker") is None
        or subprocess.run([*compose, "version"], env=environ, capture_output=True).returncode != 0
    ):
        pytest.skip("there is no docker compose on this machine")
    names = [argument for file in files for argument in ("--file", str(DEPLOY / file))]
    ended = subprocess.run([*compose, *names, "config", "--quiet"], env=environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_needs_are_those_of_pyproject() -> None:
    everything = needs(ROOT / "pyproject.toml", ["encode", "tracing"])
    assert any(need.startswith("torch") for need in everything)
    assert any(need.startswith("opentelemetry-sdk") for need in everything)
    base = needs(ROOT / "pyproject.toml", [])
    assert set(base) < set(everything)
    assert not any(need.startswith(("torch", "transformers")) for need in base)
    with pytest.raises(KeyError):
        needs(ROOT / "pyproject.toml", ["decode"])


def test_what_the_ignore_file_lets_in_is_what_the_dockerfile_copies() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    copied = {source.split("/")[0] for line in copies for source in line.split()[:-1]}
    assert copied == let_in
