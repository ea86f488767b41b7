"""Rules about what the roles are told: options, ports, each other's names, how much they may take."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.config import ConfigError
from common.options import options_of
from tests.k8s.manifests import POD_IP, ROOT, Manifests, Workload, quantity

# As docs and contract have them: role -> name -> port.
PORTS = {
    "router": {"http": 8000},
    "encode": {"grpc": 9001, "metrics": 9101},
    "language": {"grpc": 9002, "data": 9003, "metrics": 9102},
}
_LISTENING = {"grpc": "listen", "data": "data_listen", "metrics": "metrics_listen"}
_COLLECTOR = "http://collector:4318"  # the form that an endpoint has
_DNS_CACHE_S = 30  # CoreDNS as clusters configure it


def variables_of_images(dockerfile: str) -> dict[str, dict[str, str]]:
    """What images set of our variables, by role."""
    found: dict[str, dict[str, str]] = {role: {} for role in PORTS}
    for variable, role, value in re.findall(r"\b(EPD_([A-Z]+)_\w+)=(\S+)", dockerfile):
        if role.lower() in found:
            found[role.lower()][variable] = value
    return found


def config_of(workload: Workload) -> Any:
    """The configuration that a role starts with, in the image that deploy/Dockerfile makes. Raises ConfigError."""
    dockerfile = ROOT / "deploy" / "Dockerfile"
    text = dockerfile.read_text() if dockerfile.exists() else ""
    return workload.config(variables_of_images(text)[workload.role])


def options(manifests: Manifests) -> Iterator[str]:
    """Roles would start, and what the file says is in force: images set variables, which win over the file."""
    for workload in manifests.workloads:
        if workload.argv[0] != workload.role:
            yield f"{workload.role} is started as {workload.argv[0]}"
        try:
            config = config_of(workload)
        except ConfigError as error:
            yield f"{workload.role} would not start: {error}"
            continue
        known = {option.key: option for option in options_of(type(config))}
        file = tomllib.loads(workload.file)
        for key, value in file.get(workload.role, {}).items():
            option = known[key.replace("_", "-")]
            wanted = option.read([str(part) for part in (value if isinstance(value, list) else [value])])
            if getattr(config, option.field) != wanted:
                yield f"{workload.role}: {key} = {value!r} of the file is not in force"


def models(manifests: Manifests) -> Iterator[str]:
    """Both halves serve the same."""
    encode, language = (config_of(manifests.workload(role)) for role in ("encode", "language"))
    if (encode.model, encode.revision) != (language.model, language.revision):
        yield f"encode servers hold {encode.model}, language servers {language.model}"


def ports(manifests: Manifests) -> Iterator[str]:
    """Options, containers, probes and Services mean the same ports, which are the documented ones."""
    for workload in manifests.workloads:
        role, config = workload.role, config_of(workload)
        if workload.port_names != PORTS[role]:
            yield f"{role} has ports {workload.port_names}"
        for name, port in PORTS[role].items():
            address = f"{config.host}:{config.port}" if name == "http" else getattr(config, _LISTENING[name])
            if address != f"0.0.0.0:{port}":
                yield f"{role} listens on {address} for {name}"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = workload.container.get(kind)
            if probe is None and (role, kind) != ("router", "startupProbe"):
                yield f"{role} has no {kind}"
            elif probe is not None and _probed(probe) != ("http" if role == "router" else PORTS[role]["grpc"]):
                yield f"{role}: {kind} asks {_probed(probe)}"
        for port in manifests.one("Service", f"epd-{role}")["spec"]["ports"]:
            if PORTS[role].get(port["targetPort"]) != port["port"]:
                yield f"Service epd-{role} has {port}"
    language = config_of(manifests.workload("language"))
    if language.data_advertise != f"{POD_IP}:9003":
        yield f"language servers advertise {language.data_advertise}, which is not the pod's own address"


def discovery(manifests: Manifests) -> Iterator[str]:
    """Routers find every pod, and a new one before an old one goes."""
    router = config_of(manifests.workload("router"))
    for role, addresses in (("encode", router.encode), ("language", router.language)):
        service = manifests.one("Service", f"epd-{role}")["spec"]
        if addresses != (f"epd-{role}:{PORTS[role]['grpc']}",):
            yield f"routers look for {role} servers at {addresses}"
        if service.get("clusterIP") != "None":
            yield f"Service epd-{role} is not headless: a name would not stand for every pod"
        if not service.get("publishNotReadyAddresses"):
            yield f"Service epd-{role} hides servers that start"
        found_after = router.resolve_interval_seconds + _DNS_CACHE_S
        if manifests.workload(role).deployment["spec"].get("minReadySeconds", 0) < found_after:
            yield f"{role}: an old server may go before routers have found the new one, which takes {found_after:g} s"


def traces(manifests: Manifests) -> Iterator[str]:
    """All roles export theirs to the same place, or none does: a trace without one of them ends in the middle."""
    environs = {workload.role: workload.environ for workload in manifests.workloads}
    for role, environ in environs.items():
        found = {name: value for name, value in environ.items() if name.startswith("OTEL_")}
        if found != {name: value for name, value in environs["router"].items() if name.startswith("OTEL_")}:
            yield f"{role} has other variables for traces than the router"
        address = urlsplit(found.get("OTEL_EXPORTER_OTLP_ENDPOINT", _COLLECTOR))
        if (address.scheme, address.port) != ("http", urlsplit(_COLLECTOR).port) or address.path:
            yield f"{role} exports traces to {address.geturl()}, which no policy allows or no collector answers"


def keys(manifests: Manifests) -> Iterator[str]:
    """Clients need a key, and the keys lie in a Secret."""
    router = manifests.workload("router")
    file = config_of(router).api_key_file
    if file is None:
        yield "the router has no file of keys: everybody may use it"
        return
    mounted = {Path(mount["mountPath"]): mount["name"] for mount in router.container["volumeMounts"]}
    secrets = {volume["name"] for volume in router.pod["volumes"] if "secret" in volume}
    if mounted.get(file.parent) not in secrets:
        yield f"no Secret is mounted where the router reads its keys: {file}"


def resources(manifests: Manifests) -> Iterator[str]:
    """What the options let a process take is within its limit of memory."""
    for workload in manifests.workloads:
        limits, requests = workload.container["resources"]["limits"], workload.container["resources"]["requests"]
        if "memory" not in limits or not {"cpu", "memory"} <= requests.keys():
            yield f"{workload.role}: resources are {workload.container['resources']}"
            continue
        config, memory = config_of(workload), quantity(limits["memory"])
        held = {
            "router": lambda c: c.workers * c.media_budget_bytes,
            "encode": lambda c: c.encode_cache_bytes + c.max_waiting_bytes,
            "language": lambda c: c.kv_cache_bytes + c.inbox_bytes,
        }[workload.role](config)
        if held > memory // 2:
            yield f"{workload.role} may hold {held} bytes, beside itself, of {memory}"
        # All writable memory-backed volumes are in it too.
        gpu = limits.get("nvidia.com/gpu")
        if workload.role != "router" and (getattr(config, "device", None) == "cuda") != (gpu is not None):
            yield f"{workload.role} has device {config.device} and {gpu} GPUs"


def _probed(probe: Mapping[str, Any]) -> str | int:
    """The port that a probe asks."""
    port: str | int = probe["grpc"]["port"] if "grpc" in probe else probe["httpGet"]["port"]
    return port
