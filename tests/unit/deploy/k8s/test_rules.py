"""The manifests keep the rules, as far as that can be seen without kubectl.

`make check-k8s` holds the rendered overlays against the same rules.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from common.tracing import check_tracing
from tests.k8s.manifests import K8S, ROLES, Manifests, as_written
from tests.k8s.rules import broken

OVERLAYS = sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))
SCALERS = [*(K8S / "components" / "autoscaling").glob("[!k]*.yaml")]


@pytest.fixture
def base() -> Manifests:
    return Manifests(copy.deepcopy(as_written(K8S / "base")))


def test_the_base_keeps_the_rules(base: Manifests) -> None:
    assert broken(base) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_files_of_overlays_are_what_roles_understand(base: Manifests, overlay: Path) -> None:
    """With the rest as in the base: its pods have no GPU, and may have more memory."""
    (generator,) = yaml.safe_load((overlay / "kustomization.yaml").read_text())["configMapGenerator"]
    assert generator["behavior"] == "merge"
    data = base.one("ConfigMap", "epd")["data"]
    data.update({name: (overlay / name).read_text() for name in generator["files"]})
    data.update(entry.split("=", 1) for entry in generator.get("literals", []))
    assert [line for line in broken(base) if "has device cuda and None GPUs" not in line] == []


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in K8S.rglob("kustomization.yaml")), ids=lambda p: p.name
)
def test_what_kustomizations_name_is_there(folder: Path) -> None:
    """And patches name a Deployment and a container of ours: others would be no patches of anything."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    patches = [patch["path"] for patch in kustomization.get("patches", [])]
    files = [name for generator in kustomization.get("configMapGenerator", []) for name in generator.get("files", [])]
    for name in (*kustomization.get("resources", []), *kustomization.get("components", []), *patches, *files):
        assert (folder / name).exists(), name
    for name in patches:
        patch = yaml.safe_load((folder / name).read_text())
        role = patch["metadata"]["name"].removeprefix("epd-")
        assert (patch["kind"], role) in [("Deployment", known) for known in ROLES], name
        containers = patch["spec"]["template"]["spec"].get("containers", [])
        assert [found["name"] for found in containers] in ([], [role]), name


def test_traces_are_sent_where_they_may_go(base: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = K8S / "components" / "tracing"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (generator,) = kustomization["configMapGenerator"]
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    base = Manifests([*base.objects, {"kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}])
    for path in kustomization["patches"]:
        patch = yaml.safe_load((folder / path["path"]).read_text())
        (container,) = patch["spec"]["template"]["spec"]["containers"]
        base.workload(container["name"]).container.update(container)
    assert broken(base) == []
    policy = yaml.safe_load((folder / "network.yaml").read_text())
    (namespace,) = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if rule["ports"] == [{"port": 4318}]
    ]
    for workload in base.workloads:
        endpoint = workload.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        assert endpoint.endswith(f".{namespace}:4318"), workload.role
        for name, value in workload.environ.items():
            monkeypatch.setenv(name, value)
        assert check_tracing()


def test_autoscalers_keep_the_rules(base: Manifests) -> None:
    assert len(SCALERS) == len(ROLES)
    scaled = Manifests([*base.objects, *(yaml.safe_load(path.read_text()) for path in SCALERS)])
    assert broken(scaled) == []
