"""Each rule notices what it is about: one thing of the manifests is changed, and it says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.configuration import variables_of_images
from tests.k8s.manifests import K8S, ROLES, Manifests, as_written
from tests.k8s.rules import RULES, SERVING

Change = Callable[[Manifests], Any]


@pytest.fixture
def manifests() -> Manifests:
    """The base with autoscalers and API keys."""
    scalers = [yaml.safe_load((K8S / "components" / "autoscaling" / f"{role}.yaml").read_text()) for role in ROLES]
    made = Manifests([*copy.deepcopy(as_written(K8S / "base")), *scalers])
    patch = yaml.safe_load((K8S / "components" / "api-keys" / "router.yaml").read_text())
    pod, router = patch["spec"]["template"]["spec"], made.workload("router")
    router.pod["volumes"] += pod["volumes"]
    router.container["volumeMounts"] += pod["containers"][0]["volumeMounts"]
    router.container["env"] = pod["containers"][0]["env"]
    return made


def root(manifests: Manifests, role: str, name: str) -> Any:
    kinds = {
        "spec": "Deployment",
        "service": "Service",
        "budget": "PodDisruptionBudget",
        "scaler": "HorizontalPodAutoscaler",
    }
    if name in kinds:
        return manifests.one(kinds[name], f"epd-{role}")["spec"]
    return getattr(manifests.workload(role), name)  # pod, container


def find(manifests: Manifests, path: str) -> tuple[Any, Any]:
    """Of "encode.container.ports.0.name": what holds the last part, and that part."""
    role, name, *steps = path.split(".")
    keys = [int(step) if step.isdecimal() else step for step in steps]
    found = root(manifests, role, name)
    for key in keys[:-1]:
        found = found[key]
    return found, keys[-1]


def put(path: str, value: Any) -> Change:
    def change(manifests: Manifests) -> None:
        found, key = find(manifests, path)
        found[key] = value

    return change


def drop(path: str) -> Change:
    def change(manifests: Manifests) -> None:
        found, key = find(manifests, path)
        del found[key]

    return change


def argument(role: str, new: str) -> Change:
    """Another value of an option that the role has already, or one more."""

    def change(manifests: Manifests) -> None:
        args = root(manifests, role, "container")["args"]
        option = new.partition("=")[0] + "="
        args[:] = [word for word in args if not word.startswith(option)] + [new]

    return change


def file(text: str) -> Change:
    """Another TOML file for all roles."""
    return lambda manifests: manifests.one("ConfigMap", "epd")["data"].update({"epd.toml": text})


def traced(endpoint: str, *roles: str) -> Change:
    """These roles export traces."""

    def change(manifests: Manifests) -> None:
        variable = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}
        for role in roles:
            root(manifests, role, "container").setdefault("env", []).append(variable)

    return change


SLOW = "[router]\nresolve-interval-seconds = 60\nrequest-timeout-seconds = 9\n"

BREAKS: list[tuple[str, str, Change]] = [
    ("options", "unknown option --hots", argument("router", "--hots=x")),
    ("options", "unknown key 'drain'", file("[encode]\ndrain = 3\n")),
    ("options", "unknown key 'model'", file("model = 'demo'\n")),  # at the top: routers have none
    ("options", "EPD_ROUTER_PROT", put("router.container.env", [{"name": "EPD_ROUTER_PROT", "value": "1"}])),
    ("options", "not in force", file("[encode]\nmodel = 'other'\n")),
    ("options", "is started as encode", put("language.container.args.0", "encode")),
    ("models", "hold", put("encode.container.env.1", {"name": "EPD_ENCODE_REVISION", "value": "x"})),
    ("ports", "listens on 127.0.0.1:9001", argument("encode", "--listen=127.0.0.1:9001")),
    ("ports", "advertise", argument("language", "--data-advertise=epd-language:9003")),
    ("ports", "livenessProbe asks", put("language.container.livenessProbe.grpc.port", 9003)),
    ("ports", "no startupProbe", drop("language.container.startupProbe")),
    ("ports", "Service epd-language", put("language.service.ports.0.targetPort", "data")),
    ("ports", "has ports", put("language.container.ports.1.containerPort", 9004)),
    ("discovery", "not headless", drop("encode.service.clusterIP")),
    ("discovery", "hides servers", drop("encode.service.publishNotReadyAddresses")),
    ("discovery", "before routers have found", file(SLOW)),
    ("discovery", "look for encode servers", argument("router", "--encode=encode:9001")),
    ("traces", "encode has other variables", traced("http://collector.observability:4318", "router", "language")),
    ("traces", "language exports traces to", traced("http://collector.observability:4317", *ROLES)),
    ("traces", "router exports traces to", traced("https://collector.observability:4318", *ROLES)),
    ("traces", "encode exports traces to", traced("http://collector:4318/v1/traces", *ROLES)),
    ("keys", "everybody may use it", drop("router.container.env")),
    ("keys", "no Secret is mounted", put("router.container.env.0.value", "/etc/epd/keys")),
    ("keys", "no Secret is mounted", put("router.container.volumeMounts.2.mountPath", "/etc/keys")),
    ("keys", "no Secret is mounted", put("router.pod.volumes.2", {"name": "api-keys", "configMap": {"name": "epd"}})),
    ("resources", "may hold", file("[language]\nkv-cache-bytes = '5GiB'\n")),
    ("resources", "resources are", put("router.container.resources.limits", {"cpu": 1})),
    ("resources", "GPUs", file("[language]\ndevice = 'cuda'\n")),
    ("probes", "less than a minute", put("encode.container.livenessProbe.failureThreshold", 2)),
    ("probes", "takes no text", put("router.container.readinessProbe.httpGet.path", "/ready")),
    ("probes", "what servers do", put("router.container.livenessProbe.httpGet.path", "/ready")),
    ("probes", "too short for a download", put("language.container.startupProbe.failureThreshold", 30)),
    ("probes", "counts as failed", drop("encode.spec.progressDeadlineSeconds")),
    ("endings", "and has 60", file("[language]\ndrain-seconds = 90\n")),
    ("endings", "and has 30", put("encode.pod.terminationGracePeriodSeconds", 30)),
    ("endings", "and has 700", put("encode.pod.terminationGracePeriodSeconds", 700)),
    ("endings", "sleeps 0 s", drop("router.container.lifecycle")),
    ("endings", "cuts answers", file("[router]\nrequest-timeout-seconds = 900\ndrain-seconds = 540\n")),
    ("updates", "takes 2 of 2 away", put("encode.spec.strategy.rollingUpdate.maxUnavailable", 2)),
    ("updates", "can't begin", put("encode.spec.strategy.rollingUpdate.maxSurge", 0)),
    ("updates", "before there is another", put("router.spec.strategy.rollingUpdate.maxUnavailable", 1)),
    ("updates", "sets back", put("encode.spec.replicas", 3)),
    ("evictions", "one pod at a time", put("router.budget.maxUnavailable", 0)),
    ("evictions", "one pod at a time", put("language.budget.maxUnavailable", 2)),
    ("evictions", "one pod at a time", put("encode.budget.minAvailable", 1)),
    ("evictions", "waits for pods that are ill", drop("encode.budget.unhealthyPodEvictionPolicy")),
    ("evictions", "has 0 disruption budgets", put("encode.budget.selector", {"matchLabels": {"app": "encode"}})),
    ("evictions", "language has 2 disruption budgets", put("encode.budget.selector", {})),
    ("evictions", "take the last pod", put("router.scaler.minReplicas", 1)),
    ("scaling", "have no epd_queue_minutes", put("encode.scaler.metrics.0.pods.metric.name", "epd_queue_minutes")),
    ("scaling", "nothing is called", put("encode.scaler.scaleTargetRef.name", "encode")),
    ("scaling", "from 8 to 8", put("encode.scaler.minReplicas", 8)),
    ("scaling", "no CPU to compare with", drop("router.container.resources.requests.cpu")),
    ("growth", "encode has 0 autoscalers", put("encode.scaler.scaleTargetRef.name", "encode")),
    ("growth", "language has 2 autoscalers", put("encode.scaler.scaleTargetRef.name", "epd-language")),
    ("growth", "encode is not scaled by epd_queue_s", put("encode.scaler.metrics.0.pods.metric.name", "epd_items")),
    ("growth", "language is not scaled by epd_queue_s", drop("language.scaler.metrics.0")),
    ("growth", "router is not scaled by cpu", put("router.scaler.metrics.0.resource.name", "memory")),
    ("hardening", "automount", drop("router.pod.automountServiceAccountToken")),
    ("hardening", "enableServiceLinks", drop("router.pod.enableServiceLinks")),
    ("hardening", "runAsUser", put("encode.pod.securityContext.runAsUser", 0)),
    ("hardening", "seccompProfile", drop("encode.pod.securityContext.seccompProfile")),
    ("hardening", "readOnlyRootFilesystem", put("encode.container.securityContext.readOnlyRootFilesystem", False)),
    ("hardening", "allowPrivilegeEscalation", drop("encode.container.securityContext.allowPrivilegeEscalation")),
    ("hardening", "capabilities", put("encode.container.securityContext.capabilities", {"add": ["SYS_ADMIN"]})),
    ("hardening", "of its own", put("encode.container.securityContext.runAsUser", 0)),
    ("hardening", "host's", put("encode.pod.hostNetwork", True)),
    ("hardening", "privileged pods", lambda changed: changed.all("Namespace")[0]["metadata"].update(labels={})),
    ("volumes", "may write to /etc/epd", drop("router.container.volumeMounts.0.readOnly")),
    ("volumes", "may fill the node", put("router.pod.volumes.1.emptyDir", {})),
    ("volumes", "is the host's", put("router.pod.volumes.1", {"name": "tmp", "hostPath": {"path": "/"}})),
    ("volumes", "and mounts", drop("router.container.volumeMounts.1")),
    ("selectors", "the Service of router", put("router.service.selector", {"app.kubernetes.io/name": "epd-encode"})),
    ("selectors", "on one node", drop("router.pod.topologySpreadConstraints")),
    ("selectors", "the disruption budget", put("encode.budget.selector", {})),
    ("versions", "not version", put("router.container.image", "epd-router:latest")),
]


@pytest.mark.parametrize(("rule", "words", "change"), BREAKS, ids=[f"{rule}: {words}" for rule, words, _ in BREAKS])
def test_a_rule_notices(manifests: Manifests, rule: str, words: str, change: Change) -> None:
    (checking,) = [known for known in (*RULES, *SERVING) if known.__name__ == rule]
    assert list(checking(manifests)) == []
    change(manifests)
    found = list(checking(manifests))
    assert any(words in line for line in found), found


def test_every_rule_is_seen_to_fail() -> None:
    assert {rule.__name__ for rule in (*RULES, *SERVING)} == {rule for rule, _, _ in BREAKS}


def test_variables_of_images_win_over_the_file(manifests: Manifests) -> None:
    dockerfile = "ENV EPD_ENCODE_DEVICE=cpu \\\n    EPD_SERVE_HOST=0.0.0.0\nENV EPD_ROUTER_HOST=0.0.0.0\n"
    variables = variables_of_images(dockerfile)
    encode, router = {"EPD_ENCODE_DEVICE": "cpu"}, {"EPD_ROUTER_HOST": "0.0.0.0"}
    assert variables == {"encode": encode, "router": router, "language": {}}
    file("[encode]\ndevice = 'cuda'\n")(manifests)
    assert manifests.workload("encode").config({}).device == "cuda"
    assert manifests.workload("encode").config(encode).device == "cpu"
