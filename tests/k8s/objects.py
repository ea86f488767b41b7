"""Rules about the objects themselves: rights, volumes, selectors, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common import __version__
from tests.k8s.manifests import Manifests
from tests.k8s.network import matches

_WRITABLE = {"/tmp", "/cache", "/dev/shm"}


def hardening(manifests: Manifests) -> Iterator[str]:
    """Nobody is root, writes into an image, gains privileges, or gets variables and tokens that nobody asked for."""
    for workload in manifests.workloads:
        pod, container = workload.pod, workload.container
        for where, found, wanted in (
            ("automountServiceAccountToken", pod.get("automountServiceAccountToken"), False),
            ("enableServiceLinks", pod.get("enableServiceLinks"), False),
            *_compared(pod.get("securityContext", {}), {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001}),
            *_compared(pod.get("securityContext", {}), {"seccompProfile": {"type": "RuntimeDefault"}}),
            *_compared(container.get("securityContext", {}), {"allowPrivilegeEscalation": False}),
            *_compared(container.get("securityContext", {}), {"readOnlyRootFilesystem": True}),
            *_compared(container.get("securityContext", {}), {"capabilities": {"drop": ["ALL"]}}),
        ):
            if found != wanted:
                yield f"{workload.role}: {where} is {found}"
        if unknown := container["securityContext"].keys() - {
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
            "capabilities",
        }:
            yield f"{workload.role}: the container has {', '.join(sorted(unknown))} of its own"
        if workload.pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}:
            yield f"{workload.role}: the pod shares what is the host's, or starts what is not checked here"
    for namespace in manifests.all("Namespace"):
        if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace lets privileged pods in"


def volumes(manifests: Manifests) -> Iterator[str]:
    """Every mount has its volume and every volume its mount; what is written to is known, bounded, and on no host."""
    for workload in manifests.workloads:
        known = {volume["name"]: volume for volume in workload.pod["volumes"]}
        mounts = workload.container["volumeMounts"]
        if {mount["name"] for mount in mounts} != known.keys():
            yield f"{workload.role} has volumes {sorted(known)} and mounts {[mount['name'] for mount in mounts]}"
            continue
        for mount in mounts:
            volume = known[mount["name"]]
            if not mount.get("readOnly") and mount["mountPath"] not in _WRITABLE:
                yield f"{workload.role} may write to {mount['mountPath']}"
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{workload.role}: {mount['mountPath']} may fill the node"
            if "hostPath" in volume:
                yield f"{workload.role}: {mount['mountPath']} is the host's"


def selectors(manifests: Manifests) -> Iterator[str]:
    """What selects pods selects those of one role."""
    for workload in manifests.workloads:
        role = workload.role
        selecting = {"the Deployment": workload.deployment["spec"]["selector"]}
        for number, constraint in enumerate(workload.pod.get("topologySpreadConstraints", [])):
            selecting[f"spread {number}"] = constraint["labelSelector"]
        if len(selecting) == 1:
            yield f"{role} may have all its pods on one node"
        selecting["the Service"] = {"matchLabels": manifests.one("Service", f"epd-{role}")["spec"]["selector"]}
        selecting["the disruption budget"] = manifests.one("PodDisruptionBudget", f"epd-{role}")["spec"]["selector"]
        for what, selector in selecting.items():
            selected = [other.role for other in manifests.workloads if matches(selector, other.labels)]
            if selected != [role]:
                yield f"{what} of {role} selects {selected}"


def versions(manifests: Manifests) -> Iterator[str]:
    """The images are those of this version."""
    for workload in manifests.workloads:
        name, _, tag = workload.container["image"].rpartition(":")
        if tag != __version__ or name.rpartition("/")[2] != f"epd-{workload.role}":
            yield f"{workload.role} runs {workload.container['image']}, not version {__version__} of its own"


def _compared(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key, value in wanted.items():
        yield key, found.get(key), value
