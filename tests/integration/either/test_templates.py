"""What the model reads: the checkpoint's template and one of the operator's own, and ways to think or not."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.integration.contract.asking import ask, claude_of, stream, streamed_text, text_of, user
from tests.integration.either.conftest import CAROL, TEMPLATE_MARK
from tests.integration.either.questions import GREETING, HELLO, NO_THOUGHT, SUM, THINK, THOUGHT
from tests.integration.seeing.pictures import PICTURE, seen
from tests.serving import Served


def prompt_of(client: OpenAI, content: Any = HELLO, *, extra: dict[str, Any] | None = None, **fields: Any) -> str:
    extra = {"return_token_ids": True, **(extra or {})}
    answer = ask(client, content, temperature=0, max_tokens=20, extra_body=extra, **fields)
    body = {"tokens": answer.prompt_token_ids}  # type: ignore[attr-defined]
    return client.post("../detokenize", cast_to=object, body=body)["prompt"]  # type: ignore[index]


def test_the_checkpoints_own(client: OpenAI) -> None:
    assert prompt_of(client) == f"<|im_start|>user\n{HELLO}<|im_end|>\n<|im_start|>assistant\n"
    named = prompt_of(client, seen("What?", PICTURE, PICTURE), extra={"chat_template_kwargs": {"add_vision_id": True}})
    assert "Picture 2: <|vision_start|>" in named
    turns = [*user(HELLO), {"role": "assistant", "content": "Hello"}]
    goes_on = {"add_generation_prompt": False, "continue_final_message": True}
    assert prompt_of(client, messages=turns, extra=goes_on).endswith("<|im_start|>assistant\nHello")
    assert prompt_of(client, messages=turns, extra={"add_generation_prompt": False}).endswith("Hello<|im_end|>\n")


def test_the_operators_own(carol: OpenAI) -> None:
    assert prompt_of(carol).startswith(f"{TEMPLATE_MARK}<|im_end|>\n<|im_start|>user\n")
    loud = prompt_of(carol, extra={"chat_template_kwargs": {"shout": "who never sleeps"}})
    assert loud.startswith(f"{TEMPLATE_MARK}, who never sleeps<|im_end|>\n")
    for name in ("messages", "add_generation_prompt", "pad_token"):
        with pytest.raises(BadRequestError) as caught:
            prompt_of(carol, extra={"chat_template_kwargs": {name: "x"}})
        assert caught.value.param == f"chat_template_kwargs.{name}"


def test_thoughts(client: OpenAI) -> None:
    answer = ask(client, THINK, temperature=0)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == (SUM, THOUGHT, THOUGHT)  # type: ignore[attr-defined]
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0  # type: ignore[union-attr,operator]
    chunks = stream(client, THINK, temperature=0)
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks]
    assert ("".join(thoughts), streamed_text(chunks)) == (THOUGHT, SUM)
    assert thoughts == [getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chunks], "its other name"


@pytest.mark.parametrize("switch", ["enable_thinking", "reasoning_effort"])
def test_not_to_think(carol: OpenAI, switch: str) -> None:
    """The template of the guarded router closes the thoughts before they begin."""
    off: dict[str, Any] = {"reasoning_effort": "none"}
    on: dict[str, Any] = {"reasoning_effort": "high"}
    if switch == "enable_thinking":
        on, off = ({"extra": {"chat_template_kwargs": {switch: value}}} for value in (True, False))
    assert prompt_of(carol, THINK, **off).endswith(f"<|im_start|>assistant\n{NO_THOUGHT}")
    assert prompt_of(carol, THINK, **on).endswith("<|im_start|>assistant\n")
    extra = off.pop("extra", {})
    answer = ask(carol, THINK, temperature=0, max_tokens=40, extra_body=extra, **off)
    assert text_of(answer)
    assert getattr(answer.choices[0].message, "reasoning_content", None) is None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0  # type: ignore[union-attr]


def test_not_to_think_in_the_other_apis(carol: OpenAI, guarded: Served) -> None:
    response = carol.responses.create(
        model="demo", input=THINK, reasoning={"effort": "none"}, temperature=0, max_output_tokens=40
    )
    assert {item.type for item in response.output} == {"message"}
    with claude_of(guarded, CAROL) as claude:
        message = claude.messages.create(
            model="demo", max_tokens=40, messages=[{"role": "user", "content": THINK}], thinking={"type": "disabled"}
        )
    assert {block.type for block in message.content} == {"text"}


@pytest.mark.parametrize("effort", ["minimal", "low", "medium"])
def test_efforts(client: OpenAI, effort: str) -> None:
    """The checkpoint's template does not know them; the answer is what it is."""
    assert text_of(ask(client, HELLO, temperature=0, reasoning_effort=effort)) == GREETING
