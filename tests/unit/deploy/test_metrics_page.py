"""docs/metrics.md and what the services really have are the same, in both directions; and what is promised is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import encode_server.metrics
import language_server.metrics
import router.metrics
from common.metrics import watch_serving
from language_server.inbox import InboxMetrics

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
READERS = ROOT / "deploy" / "top"  # metrics are shown there, not declared
# The outside contract: names that dashboards rely on, and the services that have them.
PROMISED = {
    "Router": """epd_requests_accepted_total epd_requests_finished_total epd_requests_failed_total
        epd_requests_aborted_total epd_requests_running epd_cache_hits_total epd_cache_misses_total
        epd_retries_total epd_migrations_total epd_stage_seconds epd_time_to_first_token_seconds
        epd_inter_token_seconds epd_request_seconds epd_prompt_tokens_total epd_output_tokens_total
        epd_cache_evictions_total epd_cache_bytes""",
    "Encode server": """epd_requests_accepted_total epd_requests_finished_total epd_requests_failed_total
        epd_requests_aborted_total epd_requests_running epd_requests_waiting epd_queue_seconds epd_cache_bytes
        epd_cache_pins epd_cache_hits_total epd_cache_misses_total epd_encodes_total epd_encode_items_total
        epd_transfer_bytes_total epd_stage_seconds epd_cache_evictions_total epd_encode_batch_patches""",
    "Language server": """epd_requests_accepted_total epd_requests_finished_total epd_requests_failed_total
        epd_requests_aborted_total epd_requests_running epd_requests_waiting epd_queue_seconds epd_kv_blocks_used
        epd_inbox_bytes epd_cache_bytes epd_cache_pins epd_cache_hits_total epd_cache_misses_total
        epd_prefill_tokens_total epd_decode_steps_total epd_transfer_bytes_total epd_frames_rejected_total
        epd_preemptions_total epd_stage_seconds epd_cache_evictions_total epd_step_tokens epd_decode_tokens_total
        epd_kv_blocks epd_grant_stalls_total epd_grant_stall_seconds_total epd_grants_stalled""",
}
# And stages that must be told apart; inter-token and end to end are metrics of their own.
PROMISED_STAGES = {
    "router": {"fetch", "hash"},
    "encode": {"queue", "preprocess", "vision", "transfer"},
    "language": {"queue", "inbox", "prefill"},
}


def encode_registry() -> CollectorRegistry:
    registry = encode_server.metrics.EncodeMetrics().registry
    watch_serving(registry, lambda: True)
    return registry


def language_registry() -> CollectorRegistry:
    registry = language_server.metrics.LanguageMetrics().registry
    InboxMetrics(registry)
    watch_serving(registry, lambda: True)
    return registry


# Servers and fakes share these classes, and nothing else declares metrics (see the last test).
REGISTRIES = {
    "Router": router.metrics.RouterMetrics().registry,
    "Encode server": encode_registry(),
    "Language server": language_registry(),
}
STAGES = {
    "router": router.metrics.STAGES,
    "encode": encode_server.metrics.STAGES,
    "language": language_server.metrics.STAGES,
}


def documented(service: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels by name, as the page says."""
    section = PAGE.partition(f"\n## {service}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "`epd_" in line]
    assert all(unit and meaning for *_, unit, meaning in rows)
    assert len({row[0] for row in rows}) == len(rows), "a metric is listed twice"
    return {name.strip("`"): (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows}


def real(registry: CollectorRegistry) -> dict[str, tuple[str, frozenset[str]]]:
    """The same, as the service has it."""
    labels: Mapping[str, tuple[str, ...]] = {
        collector._name: collector._labelnames
        for collector in registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
    }
    found = {}
    for metric in registry.collect():
        names = labels.get(metric.name, tuple({name for sample in metric.samples for name in sample.labels}))
        shown = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found[shown] = (metric.type, frozenset(names))
    return found


@pytest.mark.parametrize("service", REGISTRIES)
def test_the_page_lists_what_there_is(service: str) -> None:
    assert documented(service) == real(REGISTRIES[service])


@pytest.mark.parametrize("service", REGISTRIES)
def test_what_is_promised_is_there(service: str) -> None:
    assert set(PROMISED[service].split()) <= real(REGISTRIES[service]).keys()


@pytest.mark.parametrize("service", STAGES)
def test_the_stages_that_are_promised_are_there(service: str) -> None:
    assert PROMISED_STAGES[service] <= set(STAGES[service])


def test_the_page_lists_all_stages() -> None:
    section = PAGE.partition("\n## Stages\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| \w+ \| \S.* \|$", section, flags=re.M)
    assert rows == [(stage, service) for service, stages in STAGES.items() for stage in stages]
    assert len(rows) == section.count("\n| `")


@pytest.mark.parametrize("cache", ["grid", "alias", "embeddings", "prefix", "inbox", "grammar"])
def test_the_page_names_every_cache_that_there_is(cache: str) -> None:
    seen = {
        sample.labels["cache"]
        for registry in REGISTRIES.values()
        for metric in registry.collect()
        for sample in metric.samples
        if "cache" in sample.labels
    }
    assert cache in seen
    assert seen <= {"grid", "alias", "embeddings", "prefix", "inbox", "grammar"}
    assert f"`{cache}`" in PAGE


def test_metrics_are_declared_where_this_test_looks() -> None:
    declaring = {
        str(path.relative_to(ROOT))
        for folder in ("common", "router", "encode_server", "language_server", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if '"epd_' in path.read_text() and READERS not in path.parents
    }
    assert declaring == {
        "common/metrics.py",
        "router/metrics.py",
        "encode_server/metrics.py",
        "language_server/metrics.py",
        "language_server/inbox.py",
    }


def test_what_epd_top_shows_is_there() -> None:
    shown = {name for path in READERS.glob("*.py") for name in re.findall(r'"(epd_\w+)"', path.read_text())}
    assert len(shown) > 20
    exposed = {name for registry in REGISTRIES.values() for name in real(registry)}
    assert {name.removesuffix("_bucket") for name in shown} <= exposed | {
        name.removesuffix("_total") for name in exposed
    }
