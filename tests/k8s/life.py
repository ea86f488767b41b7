"""Rules about how pods begin, are kept, are replaced, and end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.k8s.configuration import PORTS, config_of
from tests.k8s.manifests import ROOT, Manifests
from tests.k8s.network import matches

_PACKAGES = {"router": "router", "encode": "encode_server", "language": "language_server"}
_SCALER = "HorizontalPodAutoscaler"
# What says how busy a role is (docs/kubernetes.md): the type of the metric, its name, the type of the target.
_LOAD = {
    "router": ("Resource", "cpu", "Utilization"),
    "encode": ("Pods", "epd_queue_seconds", "AverageValue"),
    "language": ("Pods", "epd_queue_seconds", "AverageValue"),
}

_MARGIN_S = 10  # for a process to end after it has drained
_LONGEST_GRACE_S = 600  # what the cluster autoscaler waits for


def probes(manifests: Manifests) -> Iterator[str]:
    """A busy server is not restarted, a router without encoders serves text, a download has its time."""
    for workload in manifests.workloads:
        role, container = workload.role, workload.container
        liveness = container["livenessProbe"]
        if liveness["periodSeconds"] * liveness["failureThreshold"] < 60 or liveness["timeoutSeconds"] < 5:
            yield f"{role} is restarted after less than a minute of silence"
        if role == "router":
            if container["readinessProbe"]["httpGet"]["path"] != "/ready?for=text":
                yield "a router without encode servers takes no text"
            if liveness["httpGet"]["path"] != "/health":
                yield "routers are restarted for what servers do"
            continue
        startup = container["startupProbe"]
        patience = startup["periodSeconds"] * startup["failureThreshold"]
        spec = workload.deployment["spec"]
        if patience < 3600:
            yield f"{role}: {patience} s are too short for a download"
        if spec.get("progressDeadlineSeconds", 600) < patience + spec.get("minReadySeconds", 0):
            yield f"{role}: an update counts as failed while a server may still be loading"


def endings(manifests: Manifests) -> Iterator[str]:
    """Nothing is killed while it drains, and no request is cut by an update."""
    for workload in manifests.workloads:
        role, config = workload.role, config_of(workload)
        grace = workload.pod["terminationGracePeriodSeconds"]
        sleep = workload.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        last_words = 10 if role == "router" else 0  # 5 s for answers, 5 s for connections
        needed = sleep + config.drain_seconds + last_words + _MARGIN_S
        if not needed <= grace <= _LONGEST_GRACE_S:
            yield f"{role} needs {needed:g} s to end, may have {_LONGEST_GRACE_S}, and has {grace}"
        if (role == "router") != (sleep > 0):
            yield f"{role} sleeps {sleep} s before it ends"
        if role == "router" and config.drain_seconds < config.request_timeout_seconds:
            yield f"an update cuts answers that take longer than {config.drain_seconds:g} s"


def updates(manifests: Manifests) -> Iterator[str]:
    """An update never leaves a role without a pod, and never waits for ever."""
    scaled = {scaler["spec"]["scaleTargetRef"]["name"]: scaler["spec"] for scaler in manifests.all(_SCALER)}
    for workload in manifests.workloads:
        spec = workload.deployment["spec"]
        pace = spec["strategy"]["rollingUpdate"]
        scaler = scaled.get(f"epd-{workload.role}")
        fewest = scaler["minReplicas"] if scaler else spec.get("replicas", 1)
        if pace["maxUnavailable"] >= fewest:
            yield f"{workload.role}: an update takes {pace['maxUnavailable']} of {fewest} away"
        if pace["maxUnavailable"] + pace["maxSurge"] < 1:
            yield f"{workload.role}: an update can't begin"
        if workload.role == "router" and pace["maxUnavailable"]:
            yield "clients lose a router before there is another"
        if scaler and "replicas" in spec:
            yield f"{workload.role}: applying the manifests sets back what the autoscaler decided"


def evictions(manifests: Manifests) -> Iterator[str]:
    """A drain takes one pod of a role at a time, not the last of what is scaled, and waits for none that is ill."""
    scaled = {scaler["spec"]["scaleTargetRef"]["name"]: scaler["spec"] for scaler in manifests.all(_SCALER)}
    for workload in manifests.workloads:
        role = workload.role
        budgets = [
            budget["spec"]
            for budget in manifests.all("PodDisruptionBudget")
            if matches(budget["spec"]["selector"], workload.labels)
        ]
        if len(budgets) != 1:  # with two of them nothing can be evicted
            yield f"{role} has {len(budgets)} disruption budgets"
            continue
        pace = {key: value for key, value in budgets[0].items() if key in ("maxUnavailable", "minAvailable")}
        if pace != {"maxUnavailable": 1}:
            yield f"{role}: a drain does not take one pod at a time, but by {pace}"
        if budgets[0].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{role}: a drain waits for pods that are ill"
        scaler = scaled.get(f"epd-{role}")
        if scaler and scaler["minReplicas"] < 2:
            yield f"{role}: a drain may take the last pod"


def scaling(manifests: Manifests) -> Iterator[str]:
    """Autoscalers exist for Deployments that exist, and go by metrics that their pods have."""
    for scaler in manifests.all(_SCALER):
        spec = scaler["spec"]
        name = spec["scaleTargetRef"]["name"]
        if name not in [f"epd-{role}" for role in PORTS]:
            yield f"nothing is called {name}"
            continue
        role = name.removeprefix("epd-")
        shown = metric_names(ROOT / _PACKAGES[role])
        for metric in spec["metrics"]:
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in shown:
                yield f"{role} servers have no {metric['pods']['metric']['name']}"
            if (
                metric["type"] == "Resource"
                and "cpu" not in manifests.workload(role).container["resources"]["requests"]
            ):
                yield f"{role} requests no CPU to compare with"
        if not spec["minReplicas"] < spec["maxReplicas"]:
            yield f"{role} is scaled from {spec['minReplicas']} to {spec['maxReplicas']}"


def growth(manifests: Manifests) -> Iterator[str]:
    """Every role has one autoscaler, which goes by what says how busy the role is."""
    for workload in manifests.workloads:
        role = workload.role
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"epd-{role}"}
        specs = [scaler["spec"] for scaler in manifests.all(_SCALER) if scaler["spec"]["scaleTargetRef"] == target]
        if len(specs) != 1:
            yield f"{role} has {len(specs)} autoscalers"
            continue
        if _LOAD[role] not in [_measured(metric) for metric in specs[0]["metrics"]]:
            yield f"{role} is not scaled by {_LOAD[role][1]}"


def _measured(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    """As `_LOAD` has it."""
    source = metric["resource"] if metric["type"] == "Resource" else metric["pods"]
    name = source["name"] if metric["type"] == "Resource" else source["metric"]["name"]
    return metric["type"], name, source["target"]["type"]


def metric_names(package: Path) -> set[str]:
    """Metrics that the sources of a package name; counters as they are shown, too."""
    names = {name for file in package.rglob("*.py") for name in re.findall(r'"(epd_\w+)"', file.read_text())}
    return names | {f"{name}_total" for name in names}
