from __future__ import annotations

import logging

import pytest

from router.http.unknown import UnknownFields
from router.metrics import RouterMetrics
from router.problems import Problem


def test_the_header_has_what_a_header_can_have() -> None:
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    assert unknown.note([]) == {}
    odd = ["a\r\nset-cookie: b", "é", "\ud83d", " x ", "", "\x00", "c" * 5000]
    begin = 'a\\r\\nset-cookie: b, \\xe9, \\ud83d, x, "", \\x00, '
    assert unknown.note(odd)["x-ignored-fields"] == (begin + "c" * 5000)[:2048]
    cut = unknown.note(["c" * 2047, "d"])["x-ignored-fields"]
    assert cut == "c" * 2047 + ","
    assert unknown.note(["c" * 2046, "d"])["x-ignored-fields"] == "c" * 2046 + ",", "no space at the end"


def test_each_is_logged_once_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    unknown = UnknownFields(strict=False, metrics=RouterMetrics())
    for i in range(20):
        unknown.note([f"messages[{i}].stripes"])
    assert [record.getMessage() for record in caplog.records] == [
        "requests have an unknown field, which is ignored: 'messages[].stripes'"
    ]
    for i in range(3000):
        unknown.note([f"field-{i}"])
    assert len(caplog.records) == 1000


def test_strict() -> None:
    metrics = RouterMetrics()
    with pytest.raises(Problem) as refused:
        UnknownFields(strict=True, metrics=metrics).note(["a", "b"])
    assert (refused.value.status, refused.value.param) == (400, "a")
    assert metrics.registry.get_sample_value("epd_ignored_fields_total") == 2
