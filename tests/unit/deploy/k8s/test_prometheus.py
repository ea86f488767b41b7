"""What Prometheus is told in a cluster fits the pods, the autoscalers, and the rules and the dashboard."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.k8s.manifests import K8S, ROOT, Manifests, Workload, as_written

GRAFANA = ROOT / "deploy" / "grafana"
SCALERS = [*(K8S / "components" / "autoscaling").glob("[!k]*.yaml")]
BASE = Manifests(as_written(K8S / "base"))


def told(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((K8S / "prometheus" / name).read_text())
    return found


def test_the_adapter_makes_the_metrics_that_autoscalers_ask_for() -> None:
    (rule,) = told("adapter-rules.yaml")["rules"]["custom"]
    asked = {
        metric["pods"]["metric"]["name"]
        for path in SCALERS
        for metric in yaml.safe_load(path.read_text())["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    names, _, _ = rule["seriesQuery"].partition('",')
    assert set(names.removeprefix('{__name__=~"').split("|")) == asked


def job(monitor: dict[str, Any], endpoint: dict[str, Any], workload: Workload) -> str:
    """The label that a pod's series get: the operator's own, then what the endpoint makes of it."""
    labels = {"job": f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"}
    for name, value in workload.labels.items():
        labels["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name)] = value
    for relabeling in endpoint.get("relabelings", []):
        assert relabeling.keys() == {"sourceLabels", "regex", "targetLabel"}
        source = ";".join(labels.get(name, "") for name in relabeling["sourceLabels"])
        if match := re.fullmatch(relabeling["regex"], source):
            labels[relabeling["targetLabel"]] = match[1]
    return labels["job"]


def test_each_role_is_the_job_that_rules_and_dashboard_mean() -> None:
    monitor = told("pod-monitor.yaml")
    jobs = {}
    for workload in BASE.workloads:
        scraped = [end for end in monitor["spec"]["podMetricsEndpoints"] if end["port"] in workload.port_names]
        (jobs[workload.role],) = [job(monitor, endpoint, workload) for endpoint in scraped]  # once each
    for file in ("rules.yml", "dashboard.json"):
        selected = re.findall(r'job=~?\\?"([\w|]+)\\?"', (GRAFANA / file).read_text())
        assert {name for names in selected for name in names.split("|")} == set(jobs.values()), file


def test_the_operator_gets_the_same_rules() -> None:
    rules = told("rules.yaml")
    assert rules["kind"] == "PrometheusRule"
    assert rules["spec"] == yaml.safe_load((GRAFANA / "rules.yml").read_text())
