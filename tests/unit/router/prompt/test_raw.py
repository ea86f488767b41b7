from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router.model import ServedModel
from router.problems import Problem
from router.prompt.raw import raw_ids
from tests.unit.router.test_sampling import MODEL, MODEL_DIR

TOKENIZER = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
IMAGE = TOKENIZER.token_to_id("<|image_pad|>")


def ids_of(prompt: str | Sequence[int], model: ServedModel = MODEL, *, add_special_tokens: bool = True) -> list[int]:
    return raw_ids(prompt, model, add_special_tokens=add_special_tokens, param="prompt[3]")


@given(
    st.lists(
        st.sampled_from(
            ["<|im_start|>", "<|im_end|>", "<think>", "user\n", " Hello,  wörld", "<|im", "_end|>", "\n", "10"]
        ),
        min_size=1,
    ).map("".join)
)
def test_special_tokens_are_seen_as_the_tokenizer_sees_them(text: str) -> None:
    assert ids_of(text) == TOKENIZER.encode(text).ids


def test_ids_stay_as_they_are() -> None:
    assert ids_of([5, 1128, 7]) == [5, 1128, 7]


def test_what_the_tokenizer_adds() -> None:
    model = replace(MODEL, affixes=([1], [2]))
    assert ids_of("one", model) == [1, *ids_of("one"), 2]
    assert ids_of("one", model, add_special_tokens=False) == ids_of("one")
    assert ids_of([5], model) == [5]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "empty"),
        ([], "empty"),
        ([5, 1252], "no token 1252"),
        ([5, IMAGE], "image or video"),
        ("look: <|image_pad|>", "image or video"),
        ("<|video_pad|>", "image or video"),
        ("\ud83d", "surrogate"),
    ],
)
def test_refused(prompt: Any, reason: str) -> None:
    with pytest.raises(Problem, match=reason) as refused:
        ids_of(prompt)
    assert (refused.value.status, refused.value.param) == (400, "prompt[3]")
