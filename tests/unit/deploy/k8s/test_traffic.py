"""The network policies allow the table in tests/k8s/traffic.py and nothing else."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import pytest
import yaml

from router.media.fetch import is_public
from tests.k8s.manifests import K8S, Manifests, as_written
from tests.k8s.network import Peer, reaches
from tests.k8s.traffic import ALLOWED, HUB, TRACING, check_traffic


@pytest.fixture
def base() -> Manifests:
    return Manifests(copy.deepcopy(as_written(K8S / "base")))


def beside(base: Manifests, component: str) -> Manifests:
    """The base with the policy of a component."""
    policy = yaml.safe_load((K8S / "components" / component / "network.yaml").read_text())
    policy["metadata"]["namespace"] = base.all("Namespace")[0]["metadata"]["name"]
    return Manifests([*base.objects, policy])


def test_the_base_allows_the_table(base: Manifests) -> None:
    assert check_traffic(base) == []


def test_the_hub_component_adds_the_way_to_a_hub(base: Manifests) -> None:
    assert check_traffic(beside(base, "hub"), ALLOWED | HUB) == []


def test_the_tracing_component_adds_the_way_to_a_collector(base: Manifests) -> None:
    assert check_traffic(beside(base, "tracing"), ALLOWED | TRACING) == []


def test_what_is_too_much_is_noticed(base: Manifests) -> None:
    policy = base.one("NetworkPolicy", "epd-language")
    policy["spec"]["ingress"][1]["from"] = [{"podSelector": {}}]
    policy["spec"]["ingress"][1]["ports"].append({"port": 22})
    base.one("NetworkPolicy", "epd-router")["spec"]["egress"].append({"to": [{"podSelector": {}}]})
    assert check_traffic(base) == [
        "allowed and should not be: ('router', 'language', 22, 'TCP')",
        "allowed and should not be: ('router', 'language', 9003, 'TCP')",
    ]


def test_without_the_default_nothing_is_denied(base: Manifests) -> None:
    objects = [found for found in base.objects if found["metadata"]["name"] != "default-deny"]
    assert any("'stray', 'internet'" in line for line in check_traffic(Manifests(objects)))


def test_what_is_missing_is_noticed(base: Manifests) -> None:
    base.one("NetworkPolicy", "epd-encode")["spec"]["egress"] = []
    assert check_traffic(base) == ["not allowed and should be: ('encode', 'language', 9003, 'TCP')"]


PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "169.254.169.254"),
    *("0.0.0.0", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "64:ff9b::a00:1", "::ffff:10.0.0.1"),
    *("2002:a00:1::1", "2001:0:a00:1::1"),
]
PUBLIC = ["1.1.1.1", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1", "2001:4860::8"]


@pytest.mark.parametrize("address", PRIVATE + PUBLIC)
def test_the_policy_and_the_router_agree_on_what_is_public(base: Manifests, address: str) -> None:
    policies = beside(base, "hub").all("NetworkPolicy")
    namespace = base.all("Namespace")[0]["metadata"]["name"]
    target = Peer(name="target", address=address)
    expected = address in PUBLIC
    assert is_public(ipaddress.ip_address(address)) == expected
    for role in ("router", "encode", "language"):
        source = Peer(name=role, address="10.244.1.7", namespace=namespace, labels=base.workload(role).labels)
        assert reaches(policies, source, target, 443) == expected, role


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "it", "namespace": "here"}, "spec": spec}


def pod(namespace: str = "here", **labels: str) -> Peer:
    return Peer(name="pod", address="10.0.0.1", namespace=namespace, labels=labels)


ONLY_A = {"matchLabels": {"app": "a"}}


@pytest.mark.parametrize(
    ("policies", "source", "target", "expected"),
    [
        ([], pod(), pod(), True),
        ([policy(podSelector={})], pod(), pod(), False),  # without types: ingress
        ([policy(podSelector={})], pod(), Peer(name="out", address="1.1.1.1"), True),
        ([policy(podSelector={}, egress=[])], pod(), Peer(name="out", address="1.1.1.1"), False),
        ([policy(podSelector={}, ingress=[{}])], pod(), pod(), True),
        ([policy(podSelector=ONLY_A)], pod(), pod(app="b"), True),
        ([policy(podSelector={}, ingress=[{"from": [{"podSelector": ONLY_A}]}])], pod(app="a"), pod(), True),
        ([policy(podSelector={}, ingress=[{"from": [{"podSelector": ONLY_A}]}])], pod("there", app="a"), pod(), False),
        ([policy(podSelector={}, ingress=[{"from": [{"namespaceSelector": {}}]}])], pod("there"), pod(), True),
        ([policy(podSelector={}, ingress=[{"ports": [{"port": 1, "endPort": 99}]}])], pod(), pod(), True),
        ([policy(podSelector={}, ingress=[{"ports": [{"port": 80, "protocol": "UDP"}]}])], pod(), pod(), False),
        ([policy(podSelector={}), policy(podSelector={}, ingress=[{}])], pod(), pod(), True),  # they add up
    ],
)
def test_policies_mean_what_kubernetes_says(
    policies: list[dict[str, Any]], source: Peer, target: Peer, expected: bool
) -> None:
    assert reaches(policies, source, target, 80) == expected
