from __future__ import annotations

from typing import Any

import pytest

from router.api.completions import CompletionRequest, parse_completion_request
from router.problems import Problem


def parse(**fields: Any) -> CompletionRequest:
    return parse_completion_request({"prompt": "hi", **fields}, max_choices=4).request


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", {"prompt": "hi"}),
        ([5, 6], {"prompt": [5, 6]}),
        (["a", "b"], {"prompt[0]": "a", "prompt[1]": "b"}),
        ([[5], [6, 7]], {"prompt[0]": [5], "prompt[1]": [6, 7]}),
        ([], {"prompt": []}),
    ],
)
def test_prompts(prompt: Any, expected: Any) -> None:
    assert parse(prompt=prompt).prompts == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"text": "hi"}}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [5, "a"]}, "prompt[1]"),
        ({"prompt": [5, -1]}, "prompt[1]"),
        ({"prompt": [[5], 6]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": ["a"] * 100, "n": 3}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Problem) as refused:
        parse(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_taken() -> None:
    assert parse(suffix="", best_of=3, n=3, user="me").n == 3
    assert parse(max_tokens=0, echo=True).wanted_tokens == 0
    assert parse(max_tokens=0, prompt_logprobs=1).wanted_tokens == 0


def test_what_is_wanted_of_the_prompt() -> None:
    assert parse(logprobs=3).wanted_prompt_logprobs is None
    assert parse(logprobs=3, echo=True).wanted_prompt_logprobs == 3
    assert parse(logprobs=3, echo=True, prompt_logprobs=5).wanted_prompt_logprobs == 5
    assert parse(echo=True).wanted_prompt_logprobs is None
