"""Who reaches whom, computed from NetworkPolicies as the Kubernetes documentation defines them.

A connection has to be allowed at both ends. A pod that no policy of a direction selects may do what it likes in it; one
that is selected may do what at least one of these policies allows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A pod, or an address outside of the cluster."""

    name: str
    address: str
    namespace: str | None = None  # None: outside
    labels: Mapping[str, str] = field(default_factory=dict)


def reaches(policies: Sequence[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` may connect to `port` of `target`."""
    return _allowed(policies, "Egress", source, target, port, protocol) and _allowed(
        policies, "Ingress", target, source, port, protocol
    )


def _allowed(policies: Sequence[Policy], direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    in_force = [policy for policy in policies if _selects(policy, pod) and direction in _types(policy["spec"])]
    if not in_force:
        return True
    rules = [rule for policy in in_force for rule in policy["spec"].get(direction.lower(), [])]
    peers = "to" if direction == "Egress" else "from"
    return any(
        _fits_port(rule.get("ports", []), port, protocol) and _fits_peer(rule.get(peers, []), pod, other)
        for rule in rules
    )


def _selects(policy: Policy, pod: Peer) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and matches(policy["spec"]["podSelector"], pod.labels)


def _types(spec: Mapping[str, Any]) -> list[str]:
    default = ["Ingress", "Egress"] if "egress" in spec else ["Ingress"]
    types: list[str] = spec.get("policyTypes", default)
    return types


def _fits_port(ports: Sequence[Mapping[str, Any]], port: int, protocol: str) -> bool:
    """No ports stand for all."""
    return not ports or any(
        entry["port"] <= port <= entry.get("endPort", entry["port"]) and entry.get("protocol", "TCP") == protocol
        for entry in ports
    )


def _fits_peer(peers: Sequence[Mapping[str, Any]], pod: Peer, other: Peer) -> bool:
    """No peers stand for everybody."""
    return not peers or any(_is_peer(peer, pod, other) for peer in peers)


def _is_peer(peer: Mapping[str, Any], pod: Peer, other: Peer) -> bool:
    if "ipBlock" in peer:
        # Whether a block holds for pods too depends on the network: here it does, which is the worse case.
        address = ipaddress.ip_address(other.address)
        block = peer["ipBlock"]
        excepted = any(address in ipaddress.ip_network(network) for network in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not excepted
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        in_namespace = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == pod.namespace
    return in_namespace and matches(peer.get("podSelector", {}), other.labels)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels; an empty one selects all."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression)
