from __future__ import annotations

import math

import pytest

from deploy.top.figures import milliseconds, number, percent, rate, size
from deploy.top.histogram import Histogram


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(0.0), "0"),
        (number(7.0), "7"),
        (number(2.5), "2.5"),
        (number(1234567.0), "1,234,567"),
        (rate(0.0), "0.0"),
        (rate(0.034), "0.03"),
        (rate(12.34), "12.3"),
        (rate(1234.5), "1,234"),
        (size(0.0), "0 B"),
        (size(1023.0), "1023 B"),
        (size(1536.0), "1.5 KiB"),
        (size(300.0 * 2**20), "300 MiB"),
        (size(5.0 * 2**40), "5.0 TiB"),
        (percent(0.256), "26%"),
        (milliseconds(Histogram({0.1: 1, math.inf: 1}), 0.5), "50.0"),
        (milliseconds(Histogram({0.1: 0, 1.0: 1, math.inf: 1}), 0.5), "550"),
        (milliseconds(Histogram({0.1: 0, 120.0: 0, math.inf: 1}), 0.5), ">120,000"),
    ],
)
def test_numbers(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize("shown", [number(None), rate(None), size(None), percent(None), milliseconds(Histogram(), 0.5)])
def test_what_is_not_known(shown: str) -> None:
    assert shown == "-"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_ends_nothing(value: float) -> None:
    for show in (number, rate, size, percent):
        assert show(value)
