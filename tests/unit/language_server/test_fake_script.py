from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.pb import common_pb2
from language_server.fake_script import Rule, Script, default_answer

RULES = [{"match": "a", "answer": "first"}, {"match": "ab", "answer": "second"}, {"answer": "last"}]


@pytest.mark.parametrize("text", [json.dumps(RULES), "\n\n".join(json.dumps(rule) for rule in RULES)])
def test_the_first_rule_that_matches_is_followed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script"
    path.write_text(text)
    script = Script.load(path)
    assert [script.find(prompt).answer for prompt in ("ab", "b", "")] == ["first", "last", "last"]  # type: ignore[union-attr]


def test_an_empty_script_leaves_everything_to_the_default() -> None:
    assert Script().find("anything") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither a JSON list nor JSON lines"),
        ("[1]", "rule 1 is not an object"),
        ('[{"answer": "x"}, {"anwser": "x"}]', "rule 2: unknown anwser"),
        ('[{"tokens_per_second": 0}]', "positive"),
        ('[{"answer": 3}]', "'answer' is a text"),
        ('[{"tokens": "ab"}]', "'tokens' is a list"),
        ('[{"tokens": ["a", true]}]', "'tokens' is a list"),
        ('[{"tokens": [-1]}]', "'tokens' is a list"),
        ('[{"tokens": ["a"], "answer": "a"}]', "two ways to say the same"),
        ('[{"delay_seconds": -1}]', "'delay_seconds' is a number of seconds"),
        ('[{"cached_tokens": -1}]', "'cached_tokens' is a number of tokens"),
        ('[{"error": "NO_SUCH_CODE"}]', "'error' is one of INTERNAL"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "script"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        Script.load(path)


def test_an_error_rule_ends_in_that_error() -> None:
    failure = Rule(error="OVERLOADED", message="later").failure
    assert failure == common_pb2.Error(code=common_pb2.Error.OVERLOADED, message="later")
    assert Rule(answer="x").failure is None


@pytest.mark.parametrize(
    ("images", "videos", "words"),
    [(1, 0, "I see 1 image of"), (2, 1, "I see 2 images and 1 video of"), (0, 0, "9 prompt tokens")],
)
def test_the_default_answer_says_what_was_shown(images: int, videos: int, words: str) -> None:
    assert words in default_answer(images=images, videos=videos, rows=7, prompt_tokens=9)


def test_an_answer_is_said_as_a_text_or_token_by_token() -> None:
    assert list(Rule(answer="ab").parts) == ["ab"]
    assert list(Rule(tokens=["a", 7, "b"]).parts) == ["a", 7, "b"]
