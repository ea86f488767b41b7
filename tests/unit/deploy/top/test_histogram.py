from __future__ import annotations

import math

import pytest

from deploy.top.histogram import Histogram


def test_a_quantile_is_linear_inside_of_its_bucket() -> None:
    histogram = Histogram({0.1: 0, 0.2: 10, 0.4: 20, math.inf: 20})
    assert histogram.quantile(0.25) == pytest.approx(0.15)
    assert histogram.quantile(0.5) == pytest.approx(0.2)
    assert histogram.quantile(0.95) == pytest.approx(0.38)
    assert histogram.quantile(1.0) == pytest.approx(0.4)


def test_the_first_bucket_begins_at_nothing() -> None:
    assert Histogram({0.1: 4, math.inf: 4}).quantile(0.5) == pytest.approx(0.05)


@pytest.mark.parametrize("buckets", [{}, {0.1: 0, math.inf: 0}, {math.inf: 0}])
def test_without_observations_there_is_none(buckets: dict[float, float]) -> None:
    assert Histogram(buckets).quantile(0.5) is None


def test_beyond_the_last_bound_it_is_infinite() -> None:
    histogram = Histogram({0.1: 1, 120.0: 1, math.inf: 10})
    assert histogram.quantile(0.05) == pytest.approx(0.05)
    assert histogram.quantile(0.95) == math.inf
    assert histogram.largest_bound == 120.0


def test_empty_buckets_in_between_are_passed() -> None:
    histogram = Histogram({0.1: 5, 0.2: 5, 0.4: 5, 0.8: 10, math.inf: 10})
    assert histogram.quantile(0.5) == pytest.approx(0.1)
    assert histogram.quantile(0.6) == pytest.approx(0.4 + 0.4 / 5)


def test_the_sum_of_two() -> None:
    both = Histogram({0.1: 1, math.inf: 2}) + Histogram({0.1: 3, math.inf: 4}) + Histogram()
    assert both.buckets == {0.1: 4, math.inf: 6}
