"""Observations in buckets, and the quantiles that can be told from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Histogram:
    """`buckets`: how many observations were at most as large as a bound; the last bound is infinite."""

    buckets: Mapping[float, float] = field(default_factory=dict)

    @property
    def count(self) -> float:
        return self.buckets.get(math.inf, 0.0)

    @property
    def largest_bound(self) -> float:
        """Beyond it nothing is known; 0 if there is none."""
        return max((bound for bound in self.buckets if bound < math.inf), default=0.0)

    def __add__(self, other: Histogram) -> Histogram:
        bounds = self.buckets.keys() | other.buckets.keys()
        return Histogram({bound: self.buckets.get(bound, 0.0) + other.buckets.get(bound, 0.0) for bound in bounds})

    def quantile(self, share: float) -> float | None:
        """As Prometheus's `histogram_quantile`: linear inside of a bucket, of which the first one begins at 0.

        Returns:
            None without observations; infinity if it is beyond the largest bound.
        """
        if not self.count > 0:
            return None
        rank = share * self.count
        lower, below = 0.0, 0.0
        for bound, up_to in sorted(self.buckets.items()):
            if up_to >= rank and up_to > below:
                return bound if bound == math.inf else lower + (bound - lower) * (rank - below) / (up_to - below)
            lower, below = bound, max(below, up_to)
        return math.inf
