"""The tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.integration.contract.asking import ask, user
from tests.integration.contract.media import image_part, png


def post(client: OpenAI, path: str, **body: Any) -> Any:
    return client.post(f"../{path}", cast_to=object, body=body)


def test_tokens(client: OpenAI) -> None:
    text = "<|im_start|>user\nžluť 🌋"
    told = post(client, "tokenize", prompt=text, return_token_strs=True, model="demo")
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["token_strs"][0] == "<|im_start|>"
    assert post(client, "detokenize", tokens=told["tokens"]) == {"prompt": text}
    assert post(client, "tokenize", prompt=text, add_special_tokens=False)["tokens"] == told["tokens"]


def test_a_conversation_has_the_tokens_of_its_completion(client: OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    fields: dict[str, Any] = {
        "messages": [
            *user([image_part(png(320, 320)), image_part(png(128, 128))]),
            {"role": "assistant", "content": "I"},
        ],
        "tools": tools,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "chat_template_kwargs": {"add_vision_id": True},
        "mm_processor_kwargs": {"max_pixels": 40_000},
    }
    counted = post(client, "tokenize", **fields)
    messages = fields.pop("messages")
    answer = ask(client, messages=messages, tools=fields.pop("tools"), extra_body={"return_token_ids": True, **fields})
    assert answer.prompt_token_ids == counted["tokens"]  # type: ignore[attr-defined]
    text = post(client, "detokenize", tokens=counted["tokens"])["prompt"]
    assert '"name": "look"' in text
    assert "Picture 2: <|vision_start|>" in text
    assert text.endswith("<|im_start|>assistant\nI")
    assert text.count("<|image_pad|>") < 40 + 16


def test_what_is_refused(client: OpenAI) -> None:
    for path, body, param in (
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "tools": [{"function": {"name": "f"}}]}, "tools"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
    ):
        with pytest.raises(BadRequestError) as caught:
            post(client, path, **body)
        assert caught.value.param == param
    for path, body in (("tokenize", {"prompt": "a"}), ("detokenize", {"tokens": [1]})):
        with pytest.raises(NotFoundError):
            post(client, path, model="gpt-9", **body)
