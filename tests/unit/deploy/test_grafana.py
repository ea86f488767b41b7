"""Dashboard and rules: every metric in them exists. That they have data shows `make test-compose`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
NAMES = set(re.findall(r"^\| `(epd_\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), flags=re.M))
RULES = [rule for group in yaml.safe_load((GRAFANA / "rules.yml").read_text())["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARD = json.loads((GRAFANA / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]


def test_metrics_exist() -> None:
    queries = [rule["expr"] for rule in RULES] + [
        target["expr"] for panel in PANELS for target in panel.get("targets", ())
    ]
    named = {name for query in queries for name in re.findall(r"\bepd[_:]\w+", query)}
    assert len(named) > 20
    exposed = NAMES | RECORDED | {f"{name}_{part}" for name in NAMES for part in ("bucket", "sum", "count")}
    assert named <= exposed


def test_panels_are_apart() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken = {
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(taken) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in PANELS)
    assert max(x for x, _ in taken) < 24


def test_alerts_say_what_to_do() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len({alert["alert"] for alert in alerts}) == len(alerts) > 3
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]


def test_grafana_of_compose_finds_data_and_dashboard() -> None:
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource"]
    assert (source["type"], source["uid"]) == (variable["query"], variable["current"]["value"])
    meant = {panel["datasource"]["uid"] for panel in PANELS if "datasource" in panel}
    assert meant == {f"${{{variable['name']}}}"}

    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["grafana"]["volumes"])
    assert ROOT / "deploy" / mounts["/etc/grafana/provisioning"] == provisioning
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "epd.yml").read_text())["providers"]
    assert (ROOT / "deploy" / mounts[provider["options"]["path"]] / "dashboard.json").exists()
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert compose[host]["ports"][0].endswith(f":{port}")
    assert set(compose[host]["networks"]) & set(compose["grafana"]["networks"])
