"""Numbers as they are shown."""

from __future__ import annotations

import math

from deploy.top.histogram import Histogram

NOTHING = "-"  # not known, or there was nothing to measure


def number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def rate(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f}%"


def milliseconds(histogram: Histogram, share: float) -> str:
    """A quantile of seconds."""
    found = histogram.quantile(share)
    if found is None:
        return NOTHING
    if found == math.inf:
        return f">{1000 * histogram.largest_bound:,.0f}"
    return f"{1000 * found:,.0f}" if found >= 0.1 else f"{1000 * found:.1f}"
