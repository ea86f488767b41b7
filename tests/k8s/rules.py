"""What has to hold for our manifests, beyond their schema. Each rule says what is wrong, a line each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from tests.k8s import configuration, life, objects
from tests.k8s.manifests import Manifests

Rule = Callable[[Manifests], Iterator[str]]

RULES: tuple[Rule, ...] = (
    configuration.options,
    configuration.models,
    configuration.ports,
    configuration.discovery,
    configuration.traces,
    configuration.resources,
    life.probes,
    life.endings,
    life.updates,
    life.evictions,
    life.scaling,
    objects.hardening,
    objects.volumes,
    objects.selectors,
    objects.versions,
)
# Beyond these, for overlays that serve more than a demo.
SERVING: tuple[Rule, ...] = (
    configuration.keys,
    life.growth,
)


def broken(manifests: Manifests, more: Collection[Rule] = ()) -> list[str]:
    """What is wrong with them, by `RULES` and `more`, but the one about traffic."""
    return [f"{rule.__name__}: {line}" for rule in (*RULES, *more) for line in rule(manifests)]
