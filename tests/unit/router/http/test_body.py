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
