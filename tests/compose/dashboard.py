"""The compose profile `observability`: a real Prometheus with our configuration has an answer to every query of ours.

Where no registry is in reach, Debian's Prometheus stands in for the image that the compose file names. Grafana is not
started: what it would ask is asked here.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.compose.engine import BASE_IMAGE
from tests.compose.project import Project, wait_until
from tests.compose.traffic import traffic
from tests.serving import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
_RULES_TEST = Path(__file__).with_name("rules.test.yml")
PORT = 19090  # of Prometheus on this host

_STAND_IN = f"""
FROM {BASE_IMAGE}
RUN apt-get update -qq && apt-get install -qq --no-install-recommends prometheus && rm -rf /var/lib/apt/lists
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT ["/usr/bin/prometheus"]
"""


def check(variables: Mapping[str, str], url: str) -> str:
    """Asks the router at `url` for something, and Prometheus about it. Raises AssertionError."""
    variables = {**variables, "PROMETHEUS_PORT": str(PORT)}
    project = Project(variables, profiles=["observability"])
    image = project.compose("config", "--images", "prometheus").split()[-1]
    if not _pulled(project, image):
        image = "epd-drill-prometheus"
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "Dockerfile").write_text(_STAND_IN)
            project.docker("build", "--quiet", "--tag", image, name)
        project = Project({**variables, "PROMETHEUS_IMAGE": image}, profiles=["observability"])
    _check_rules(project, image)
    project.up("prometheus")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=30, trust_env=False) as prometheus:
            with traffic(url) as seen:
                wait_until("Prometheus has found all three roles", lambda: _jobs(prometheus) == 3)
                missing = set(queries())
                wait_until("every query has data", lambda: not _still_missing(prometheus, missing))
                wait_until("every stage was measured", lambda: not _unmeasured(prometheus))
                wait_until("both sides have a utilisation", lambda: len(_values(prometheus, "epd:utilisation")) == 2)
            seen.check("text", "image")
            rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
            states = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
            assert set(states.values()) == {"ok"}, states
            assert _values(prometheus, "epd:lost") == [0.0], "requests were lost"
            assert not _values(prometheus, 'ALERTS{alertstate="firing"}'), prometheus.get("/api/v1/alerts").text
            return f"{len(set(queries()))} queries with data, {len(states)} rules, nothing lost, no alert"
    except AssertionError as error:
        raise AssertionError(f"{error}; without data: {sorted(missing)}") from None
    finally:
        project.compose("rm", "--force", "--stop", "prometheus", check=False)


def queries() -> Iterator[str]:
    """Of all panels."""
    board = json.loads((GRAFANA / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def _unmeasured(prometheus: httpx.Client) -> set[tuple[str, str]]:
    """Stage and job, of those that docs/metrics.md lists. No request of the drill has a grammar."""
    table = (ROOT / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (?:request|item|shipment) \|", table, flags=re.M)
    query = {"query": "epd_stage_seconds_count > 0"}
    found = prometheus.get("/api/v1/query", params=query).json()["data"]["result"]
    measured = {(entry["metric"]["stage"], entry["metric"]["job"]) for entry in found}
    return {(stage, job) for stage, job in listed if stage != "grammar"} - measured


def _still_missing(prometheus: httpx.Client, missing: set[str]) -> set[str]:
    """`missing` without those that have data by now."""
    missing -= {query for query in missing if _values(prometheus, query)}
    return missing


def _values(prometheus: httpx.Client, query: str) -> list[float]:
    """Numbers only: what is divided by nothing is no data."""
    body: dict[str, Any] = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert body["status"] == "success", f"{query}: {body}"
    found = [float(entry["value"][1]) for entry in body["data"]["result"]]
    return [value for value in found if not math.isnan(value)]


def _jobs(prometheus: httpx.Client) -> int:
    try:
        return len(_values(prometheus, "(sum by (job) (up)) > 0"))
    except httpx.HTTPError:
        return 0


def _check_rules(project: Project, image: str) -> None:
    """Alerts are raised by what they are for, and by nothing else: Prometheus's own tests of rules."""
    volumes = (f"--volume={GRAFANA / 'rules.yml'}:/rules/rules.yml:ro", f"--volume={_RULES_TEST}:/rules/test.yml:ro")
    project.docker("run", "--rm", "--entrypoint=promtool", *volumes, image, "test", "rules", "/rules/test.yml")


def _pulled(project: Project, image: str) -> bool:
    try:
        project.docker("pull", "--quiet", image)
    except AssertionError:
        return False
    return True
