"""The table of allowed connections, and what the policies make of it."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

from tests.k8s.manifests import ROLES, Manifests
from tests.k8s.network import Peer, reaches

Connection = tuple[str, str, int, str]  # from, to, port, protocol

_METRICS = {("prometheus", "encode", 9101, "TCP"), ("prometheus", "language", 9102, "TCP")}
_OURS = {
    ("router", "encode", 9001, "TCP"),
    ("router", "language", 9002, "TCP"),
    ("encode", "language", 9003, "TCP"),
}
# Whoever is not in our namespace. Who is, is kept from the router by its own egress.
_ANYBODY = (
    *("client", "prometheus", "collector", "dns", "neighbour", "impostor"),
    *("internet", "internet v6", "private", "metadata"),
)
_CLIENTS = {(name, "router", 8000, "TCP") for name in _ANYBODY}
_MEDIA = {("router", internet, port, "TCP") for internet in ("internet", "internet v6") for port in (80, 443)}
_NAMES = {("router", "dns", 53, "UDP"), ("router", "dns", 53, "TCP")}

ALLOWED: frozenset[Connection] = frozenset(_METRICS | _OURS | _CLIENTS | _MEDIA | _NAMES)
# What components/hub adds.
HUB: frozenset[Connection] = frozenset(
    {(role, internet, 443, "TCP") for role in ("encode", "language") for internet in ("internet", "internet v6")}
    | {(role, "dns", 53, protocol) for role in ("encode", "language") for protocol in ("UDP", "TCP")}
)

# What components/tracing adds.
TRACING: frozenset[Connection] = frozenset(
    {(role, "collector", 4318, "TCP") for role in ROLES}
    | {(role, "dns", 53, protocol) for role in ROLES for protocol in ("UDP", "TCP")}
)

_PORTS = [(port, "TCP") for port in (22, 53, 80, 443, 4317, 4318, 8000, 8080, 9001, 9002, 9003, 9101, 9102)] + [
    (53, "UDP")
]
_NAME = "app.kubernetes.io/name"


def peers(manifests: Manifests) -> list[Peer]:
    """Our pods, and all kinds of others."""
    namespace = manifests.all("Namespace")[0]["metadata"]["name"]
    ours = [
        Peer(name=workload.role, address="10.244.1.7", namespace=namespace, labels=workload.labels)
        for workload in manifests.workloads
    ]
    elsewhere = [
        ("client", "default", {"app": "chat"}),
        ("prometheus", "monitoring", {_NAME: "prometheus"}),
        ("collector", "observability", {_NAME: "opentelemetry-collector"}),
        ("dns", "kube-system", {"k8s-app": "kube-dns"}),
        ("neighbour", "monitoring", {_NAME: "grafana"}),
        ("impostor", "default", {_NAME: "epd-router"}),  # the right label in the wrong namespace
        ("stray", namespace, {_NAME: "something-else"}),  # in our namespace, not of our roles
    ]
    outside = {
        "internet": "93.184.215.14",
        "internet v6": "2606:4700::1111",
        "private": "10.0.0.5",
        "metadata": "169.254.169.254",
    }
    return [
        *ours,
        *(Peer(name=name, address="10.244.2.9", namespace=where, labels=labels) for name, where, labels in elsewhere),
        *(Peer(name=name, address=address) for name, address in outside.items()),
    ]


def connections(manifests: Manifests) -> set[Connection]:
    """All that is possible between our pods and anybody, of what could matter."""
    policies = manifests.all("NetworkPolicy")
    everybody = peers(manifests)
    return {
        (source.name, target.name, port, protocol)
        for source, target, (port, protocol) in product(everybody, everybody, _PORTS)
        if source != target and (source.name in ROLES or target.name in ROLES or "stray" in (source.name, target.name))
        if reaches(policies, source, target, port, protocol)
    }


def check_traffic(manifests: Manifests, allowed: Collection[Connection] = ALLOWED) -> list[str]:
    """The difference between what should be possible and what is."""
    possible = connections(manifests)
    return [f"allowed and should not be: {one}" for one in sorted(possible - set(allowed))] + [
        f"not allowed and should be: {one}" for one in sorted(set(allowed) - possible)
    ]
