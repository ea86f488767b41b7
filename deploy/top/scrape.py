"""What an endpoint's metrics were at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Series = Mapping[Labels, float]

_GROWING = ("counter", "histogram")


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """`samples`: every value, by name (`epd_requests_finished_total`) and labels."""

    at: float  # seconds, of a clock that never goes back
    families: frozenset[str]  # also those without a sample yet
    samples: Mapping[str, Series]
    growing: frozenset[str]  # names of samples that only grow, until their process ends

    @staticmethod
    def parse(text: str, at: float) -> Scrape:
        """Of Prometheus's text format. Raises ValueError if it is something else."""
        families: set[str] = set()
        growing: set[str] = set()
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            families.add(family.name)
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
                if family.type in _GROWING and not sample.name.endswith("_created"):
                    growing.add(sample.name)
        return Scrape(at=at, families=frozenset(families), samples=samples, growing=frozenset(growing))

    def series(self, name: str, labels: Mapping[str, str]) -> Series:
        """Those that have these labels, among others."""
        wanted = frozenset(labels.items())
        return {found: value for found, value in self.samples.get(name, {}).items() if wanted <= found}

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the series; None if there are none."""
        found = self.series(name, labels)
        return sum(found.values()) if found else None

    def values_of(self, name: str, label: str) -> list[str]:
        """What a label's values are, in order."""
        return sorted({value for found in self.samples.get(name, {}) for key, value in found if key == label})
