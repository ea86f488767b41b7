from __future__ import annotations

import math

import pytest

from deploy.top.change import Change
from deploy.top.scrape import Scrape


def scrape(text: str, at: float = 0.0) -> Scrape:
    return Scrape.parse(text, at)


def counters(**values: float) -> str:
    return "".join(f"# TYPE epd_{name}_total counter\nepd_{name}_total {value}\n" for name, value in values.items())


def buckets(name: str, *counts: float, stage: str = "vision") -> str:
    """Cumulative, for the bounds 0.1, 1 and infinity."""
    lines = [f"# TYPE {name} histogram"]
    lines += [
        f'{name}_bucket{{stage="{stage}",le="{bound}"}} {count}'
        for bound, count in zip(("0.1", "1.0", "+Inf"), counts, strict=True)
    ]
    return "\n".join([*lines, f'{name}_count{{stage="{stage}"}} {counts[-1]}', ""])


def test_a_rate_is_what_was_counted_over_the_time_it_took() -> None:
    change = Change(before=scrape(counters(items=10), at=100.0), after=scrape(counters(items=25), at=105.0))
    assert change.seconds == 5.0
    assert change.rate("epd_items_total") == 3.0


def test_without_an_earlier_scrape_there_is_a_sum_but_no_rate() -> None:
    change = Change(before=None, after=scrape(counters(items=25)))
    assert change.increase("epd_items_total") == 25
    assert change.rate("epd_items_total") is None
    assert change.seconds is None


def test_a_restarted_process_has_counted_from_zero() -> None:
    """All of it, also what has grown beyond where it was before the restart."""
    change = Change(
        before=scrape(counters(items=100, batches=1), at=0.0), after=scrape(counters(items=4, batches=3), at=2.0)
    )
    assert change.restarted
    assert change.rate("epd_items_total") == 2.0
    assert change.increase("epd_batches_total") == 3


def test_a_restart_shows_where_a_labelled_counter_is_gone() -> None:
    before = '# TYPE epd_x_total counter\nepd_x_total{cause="death"} 3\n' + counters(items=5)
    change = Change(before=scrape(before, at=0.0), after=scrape(counters(items=9), at=1.0))
    assert change.increase("epd_items_total") == 9


def test_a_gauge_that_falls_is_no_restart() -> None:
    gauge = "# TYPE epd_running gauge\nepd_running "
    change = Change(
        before=scrape(gauge + "7\n" + counters(items=5), at=0.0),
        after=scrape(gauge + "1\n" + counters(items=6), at=1.0),
    )
    assert not change.restarted
    assert change.increase("epd_items_total") == 1
    assert change.after.value("epd_running") == 1


def test_when_it_was_created_does_not_count() -> None:
    text = "# TYPE epd_items_created gauge\nepd_items_created {}\n" + counters(items=5)
    change = Change(before=scrape(text.format(1e9), at=0.0), after=scrape(text.format(5e8), at=1.0))
    assert not change.restarted


def test_series_are_added_up_by_the_labels_that_are_asked_for() -> None:
    kinds = (("1", "1"), ("1", "2"), ("2", "1"))
    text = "# TYPE epd_x_total counter\n" + "".join(f'epd_x_total{{{{a="{a}",b="{b}"}}}} {{}}\n' for a, b in kinds)
    change = Change(before=scrape(text.format(1, 1, 1), at=0.0), after=scrape(text.format(2, 3, 9), at=1.0))
    assert change.increase("epd_x_total") == 11
    assert change.increase("epd_x_total", a="1") == 3
    assert change.increase("epd_x_total", a="1", b="2") == 2
    assert change.increase("epd_x_total", a="3") == 0
    assert change.increase("epd_no_such_total") == 0


def test_shares() -> None:
    hits = '# TYPE epd_hits_total counter\nepd_hits_total{{cache="inbox"}} {}\n'
    misses = '# TYPE epd_misses_total counter\nepd_misses_total{{cache="inbox"}} {}\n'
    change = Change(
        before=scrape(hits.format(10) + misses.format(10), at=0.0),
        after=scrape(hits.format(13) + misses.format(11), at=1.0),
    )
    assert change.share("epd_hits_total", "epd_misses_total", cache="inbox") == 0.75
    assert change.share("epd_hits_total", "epd_misses_total", cache="prefix") is None


def test_a_histogram_holds_only_what_is_new() -> None:
    change = Change(
        before=scrape(buckets("epd_s", 100, 100, 100), at=0.0), after=scrape(buckets("epd_s", 100, 104, 104), at=1.0)
    )
    recent = change.histogram("epd_s", stage="vision")
    assert recent.count == 4
    assert recent.quantile(0.5) == pytest.approx(0.55)
    assert change.histogram("epd_s", stage="transfer").quantile(0.5) is None


def test_a_histogram_after_a_restart_holds_what_is_there() -> None:
    change = Change(
        before=scrape(buckets("epd_s", 100, 100, 100), at=0.0), after=scrape(buckets("epd_s", 0, 2, 2), at=1.0)
    )
    assert change.histogram("epd_s").buckets == {0.1: 0, 1.0: 2, math.inf: 2}


def test_a_histogram_that_was_not_there_before() -> None:
    change = Change(before=scrape(counters(items=1), at=0.0), after=scrape(buckets("epd_s", 1, 2, 2), at=1.0))
    assert change.histogram("epd_s").count == 2


def test_what_is_no_metrics_is_an_error() -> None:
    for text in ("<html>\n<body>hello</body>", '{"metrics": 1}', "epd_x not-a-number\n"):
        with pytest.raises(ValueError):
            scrape(text)
