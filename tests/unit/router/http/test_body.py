from __future__ import annotations

import json

import pytest

from router.http.body import parse_json
from router.problems import Problem


def test_a_body_of_nothing_but_structure_is_not_parsed() -> None:
    for unit in ("[],", '{"a":1},', "1,", "[[],", "{{"):
        body = ('{"messages":[' + unit * 300_000).encode()  # cut short: parsing it would find that
        with pytest.raises(Problem, match="200000") as refused:
            parse_json(body)
        assert (refused.value.status, refused.value.code) == (400, "body_too_complex")


def test_much_content_is_no_structure() -> None:
    body = {"text": "word " * 1_000_000, "list": list(range(100_000))}
    assert parse_json(json.dumps(body).encode()) == body


def test_depth() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)

    assert parse_json(nested(128))
    assert parse_json(b"[" + b",".join([nested(127)] * 100) + b"]")
    for depth in (129, 500, 5000, 100_000):
        with pytest.raises(Problem, match="128 levels") as refused:
            parse_json(nested(depth))
        assert (refused.value.status, refused.value.code) == (400, "body_too_complex")


def test_what_json_leaves_open() -> None:
    """Of a key that comes twice the last one counts, as with every other server."""
    assert parse_json(b'{"n": 1, "n": 2}') == {"n": 2}
    with pytest.raises(Problem, match="not valid JSON"):
        parse_json(b'{"n": ' + b"9" * 5000 + b"}")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400 + ".0"])
def test_numbers_are_finite(literal: str) -> None:
    for body in (literal, f'{{"a": [{literal}]}}'):
        with pytest.raises(Problem, match="not valid JSON") as refused:
            parse_json(body.encode())
        assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert parse_json(b"[1e308, -1e308, 1e-999, 0.1]") == [1e308, -1e308, 0.0, 0.1]


@pytest.mark.parametrize("text", ["\U0001f30b", "\\ud83d", "a\U0001f30b\U0001f30b", "\\\U0001f30b"])
def test_pairs_of_surrogates_are_characters(text: str) -> None:
    assert parse_json(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "text", ["\ud83d", "-\udf0b", "\ud83d\ud83d\udf0b", "\udf0b\ud83d", "\U0001f30b\udf0b", "\\\ud83d"]
)
def test_half_a_pair_is_none(text: str) -> None:
    for body in (json.dumps({"a": [text]}), json.dumps({text: 1})):
        with pytest.raises(Problem, match="surrogate"):
            parse_json(body.encode())
