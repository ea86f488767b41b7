from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from deploy.check.diagnosis import Finding, diagnose, slow_transfers, unready
from deploy.check.trial import Cause, Failure, Trial

REFUSED = Failure(cause="refused", message="the tower fell", status=500, param="messages[0].content[0]")


def trial(encode: str | None, language: str, failure: Failure | None = None, transfer: float = 1.0) -> Trial:
    return Trial(
        language=language,
        encode=encode,
        request_id=f"id-{encode}-{language}",
        seconds=0.5,
        timings={} if failure is not None else {"transfer": transfer},
        failure=failure,
    )


def trials(
    encoders: Collection[str], languages: Collection[str], fails: Callable[[str | None, str], bool]
) -> list[Trial]:
    """Those of a check, some of which fail."""
    asked = [(None, language) for language in languages]
    pairs = [(encode, language) for encode in encoders for language in languages]
    return [
        trial(encode, language, REFUSED if fails(encode, language) else None) for encode, language in (*asked, *pairs)
    ]


def places(findings: list[Finding]) -> list[str]:
    return [finding.where for finding in findings]


def test_nothing_is_wrong() -> None:
    assert diagnose(trials("ab", "xy", lambda encode, language: False)) == []


def test_an_encode_server_that_fails_with_all() -> None:
    (finding,) = diagnose(trials("ab", "xy", lambda encode, language: encode == "b"))
    assert finding.where == "encode server b"
    assert "fails with every language server" in finding.what
    assert "HTTP 500: the tower fell" in finding.what
    assert "id-b-x, id-b-y" in finding.advice


def test_a_language_server_that_gets_no_image() -> None:
    (finding,) = diagnose(trials("ab", "xy", lambda encode, language: encode is not None and language == "y"))
    assert finding.where == "language server y"
    assert "though it answers texts" in finding.what


def test_a_language_server_that_answers_nothing_is_named_once() -> None:
    (finding,) = diagnose(trials("ab", "xy", lambda encode, language: language == "y"))
    assert finding.where == "language server y"
    assert "even to a text" in finding.what


def test_one_pair() -> None:
    (finding,) = diagnose(trials("ab", "xy", lambda encode, language: (encode, language) == ("a", "y")))
    assert finding.where == "encode server a and language server y"
    assert finding.what.startswith("fail together")


def test_the_only_pair() -> None:
    (finding,) = diagnose(trials("a", "x", lambda encode, language: encode is not None))
    assert finding.where == "encode server a and language server x"


def test_several_faults_are_several_findings() -> None:
    found = diagnose(trials("abc", "xyz", lambda encode, language: encode == "c" or (encode, language) == ("a", "y")))
    assert places(found) == ["encode server c", "encode server a and language server y"]


def test_when_all_pairs_fail_the_encode_servers_are_named() -> None:
    found = diagnose(trials("ab", "xy", lambda encode, language: encode is not None))
    assert places(found) == ["encode server a", "encode server b"]


@pytest.mark.parametrize(
    ("cause", "status", "message", "advice"),
    [
        ("refused", 503, "encode server a: it can't reach the language server: timeout", "--data-advertise"),
        ("refused", 503, "a media item arrived broken too often (checksum)", "epd_frames_rejected_total"),
        ("refused", 429, "the queue is full", "more work than it takes"),
        ("timeout", None, "no answer within 60 s", "stuck"),
        ("unreachable", None, "the connection broke", "log"),
    ],
)
def test_advice_fits_the_failure(cause: Cause, status: int | None, message: str, advice: str) -> None:
    failure = Failure(cause=cause, message=message, status=status)
    (finding,) = diagnose([trial(None, "x"), trial("a", "x", failure)])
    assert message in finding.what
    assert advice in finding.advice


def test_a_transfer_that_is_an_order_of_magnitude_slower() -> None:
    usual = [trial("a", "x", transfer=3.0), trial("a", "y", transfer=4.0), trial("b", "x", transfer=5.0)]
    slow = trial("b", "y", transfer=90.0)
    assert slow_transfers([*usual, slow]) == [slow]
    assert slow_transfers([*usual, trial("b", "y", transfer=35.0)]) == [], "nine times is not ten"
    assert slow_transfers([slow]) == [], "there is nothing to compare it with"


def test_a_transfer_that_nobody_waits_for_is_not_slow() -> None:
    assert slow_transfers([trial("a", "x", transfer=0.5), trial("b", "x", transfer=15.0)]) == []


def test_servers_that_are_not_ready_say_why_once() -> None:
    servers = [
        {"role": "encode", "address": "e:1", "ready": True, "trouble": None},
        {"role": "encode", "address": "e:2", "ready": False, "trouble": "encode server e:2: failed to connect to it"},
        {"role": "language", "address": "l:1", "ready": False, "trouble": "language server l:1 is shutting down"},
        {"role": "language", "address": "l:2", "ready": False, "trouble": None},
    ]
    connect, drains, silent = unready(servers)
    assert (connect.where, connect.what) == ("encode server e:2", "is not ready: failed to connect to it")
    assert "Does it run" in connect.advice
    assert (drains.where, drains.what) == ("language server l:1", "is not ready: is shutting down")
    assert "SIGTERM" in drains.advice
    assert "does not say why" in silent.what
