from __future__ import annotations

import functools

import pytest

from common.logs import RateLimitedLog
from router.http.unknown import UnknownFields
from router.metrics import RouterMetrics
from router.problems import Problem


def test_the_header_has_what_a_header_can_have() -> None:
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    assert unknown.note([], "r1") == {}
    odd = ["a\r\nset-cookie: b", "é", "\ud83d", " x ", "", "\x00", "c" * 5000]
    begin = 'a\\r\\nset-cookie: b, \\xe9, \\ud83d, x, "", \\x00, '
    assert unknown.note(odd, "r1")["x-ignored-fields"] == (begin + "c" * 5000)[:2048]
    cut = unknown.note(["c" * 2047, "d"], "r1")["x-ignored-fields"]
    assert cut == "c" * 2047 + ","
    assert unknown.note(["c" * 2046, "d"], "r1")["x-ignored-fields"] == "c" * 2046 + ",", "no space at the end"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the log: what is in here is the time."""
    clock = [100.0]
    monkeypatch.setattr("router.http.unknown.RateLimitedLog", functools.partial(RateLimitedLog, clock=lambda: clock[0]))
    return clock


def test_each_is_logged_once_and_not_all_of_them_at_once(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    for i in range(20):
        unknown.note([f"messages[{i}].stripes"], "first")
    for name in ("spots", "dots"):
        unknown.note([name], "too soon")
    now[0] += 60
    unknown.note(["spots", "messages[0].stripes"], "again")
    now[0] += 60
    unknown.note(["spots"], "once more")
    assert [(record.getMessage(), record.request_id) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("a request has unknown fields, which are ignored: messages[].stripes", "first"),
        ("a request has unknown fields, which are ignored: spots (and 2 more like it)", "again"),
    ]


@pytest.mark.parametrize(
    "name",
    ["sk-proj-abc", "hf_aB3dE5gH7jK9", "what is this", "é", "a\nb", "", "a..b", "a.[0]", "x" * 39, ".".join("x" * 9)],
)
def test_only_words_are_logged(name: str, now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    for path in (name, f"messages[3].{name}"):
        unknown.note([path, "top_a", "cacheKey2"], "r1")
        unknown.note([path, "top_a", "cacheKey2"], "r1")
        now[0] += 60
    first, second = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert (first, second) == ("cacheKey2, top_a, 1 with names that are no words", "1 with names that are no words")


def test_what_is_remembered_has_an_end(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    for i in range(3000):
        unknown.note([f"field-{i}"], "r1")
        now[0] += 60
    assert len(caplog.records) == 1000


def test_strict() -> None:
    metrics = RouterMetrics()
    with pytest.raises(Problem) as refused:
        UnknownFields(strict=True, metrics=metrics).note(["a", "b"], "r1")
    assert (refused.value.status, refused.value.param) == (400, "a")
    assert metrics.registry.get_sample_value("epd_ignored_fields_total") == 2
