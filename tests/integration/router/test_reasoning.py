"""Reasoning, with the templates of a model that always thinks and of one that may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.pb import language_pb2
from router.config import RouterConfig
from tests.integration.router.system import CONFIG, TOKENIZER, Router, events_of, ids_of, says, system

TURNS = """
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' ~ message.reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
"""
ALWAYS = TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
MAYBE = (
    TURNS
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    + "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
THOUGHT = "hm\n\nso be it"


def config(folder: Path, template: str, **options: Any) -> RouterConfig:
    path = folder / "template.jinja"
    path.write_text(template)
    return replace(CONFIG, chat_template=path, **options)


def prompt_of(generate: language_pb2.Generate) -> str:
    return str(TOKENIZER.decode(list(generate.prompt_ids), skip_special_tokens=False))


async def message_of(router: Router, **fields: Any) -> dict[str, Any]:
    response = await router.chat("hi", **fields)
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return {name: message.get(name) for name in ("content", "reasoning_content", "reasoning")}


def shown(content: str | None, reasoning: str | None) -> dict[str, Any]:
    return {"content": content, "reasoning_content": reasoning, "reasoning": reasoning}


async def test_a_model_that_always_thinks(tmp_path: Path) -> None:
    script = says(f"{THOUGHT}\n</think>\n\nYes.")
    async with system(script, config=config(tmp_path, ALWAYS)) as (router, (language,), _):
        assert await message_of(router) == shown("Yes.", THOUGHT)
        assert prompt_of((await language.request()).generate).endswith("<|im_start|>assistant\n<think>\n")
        assert await message_of(router, include_reasoning=False) == shown("Yes.", None)
        assert await message_of(router, max_tokens=2) == shown(None, "hm")
        usage = (await router.chat("hi")).json()["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == len(ids_of(f"{THOUGHT}\n"))
        refused = await router.chat("hi", reasoning_effort="none")
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "reasoning_effort"


async def test_it_is_streamed_apart(tmp_path: Path) -> None:
    async with system(says(f"{THOUGHT}\n</think>\n\nYes."), config=config(tmp_path, ALWAYS)) as (router, _, _):
        response = await router.chat("hi", stream=True)
    deltas = [event["choices"][0]["delta"] for event in events_of(response.text)[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    for name in ("reasoning_content", "reasoning"):
        assert "".join(delta.get(name) or "" for delta in deltas) == THOUGHT
    assert any("reasoning" in delta for delta in deltas)
    assert not any("reasoning" in delta and "content" in delta for delta in deltas)


async def test_a_model_that_may_think(tmp_path: Path) -> None:
    script = says(f"<think>\n{THOUGHT}\n</think>\n\nYes.")
    async with system(script, config=config(tmp_path, MAYBE)) as (router, (language,), _):
        assert await message_of(router) == shown("Yes.", THOUGHT)
        off = {"content": f"<think>\n{THOUGHT}\n</think>\n\nYes.", "reasoning_content": None, "reasoning": None}
        for count, fields in enumerate(
            [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}], start=2
        ):
            assert await message_of(router, **fields) == off  # it was told that it has thought already
            assert prompt_of((await language.request(count)).generate).endswith("<think>\n\n</think>\n\n")
        on = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}
        assert await message_of(router, **on) == shown("Yes.", THOUGHT)


async def test_it_can_be_left_in_the_answer(tmp_path: Path) -> None:
    text = f"{THOUGHT}\n</think>\n\nYes."
    async with system(says(text), config=config(tmp_path, ALWAYS, reasoning="off")) as (router, _, _):
        assert await message_of(router) == shown(text, None)


async def test_a_grammar_holds_behind_the_reasoning(tmp_path: Path) -> None:
    (end,) = ids_of("</think>")
    (begin,) = ids_of("<think>")
    fields = {"response_format": {"type": "json_object"}}
    async with system(says("hm</think>{}"), config=config(tmp_path, ALWAYS)) as (router, (language,), _):
        assert await message_of(router, **fields) == shown("{}", "hm")
        assert (await language.request()).generate.sampling.grammar.after_token_id == end
    async with system(says("{}"), config=config(tmp_path, MAYBE)) as (router, (language,), _):
        assert await message_of(router, **fields) == shown("{}", None)
        grammar = (await language.request()).generate.sampling.grammar
        assert not grammar.HasField("after_token_id")
        assert f"<[{begin}]>" in grammar.source
        await message_of(router, **fields, reasoning_effort="none")
        grammar = (await language.request(2)).generate.sampling.grammar
        assert not grammar.HasField("after_token_id")
        assert f"<[{begin}]>" not in grammar.source


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_in_the_history(tmp_path: Path, name: str) -> None:
    async with system(says("ok"), config=config(tmp_path, ALWAYS)) as (router, (language,), _):
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", name: THOUGHT},
            {"role": "user", "content": "c"},
        ]
        await message_of(router, messages=messages)
        assert f"<think>\n{THOUGHT}\n</think>\n\nb<|im_end|>" in prompt_of((await language.request()).generate)


async def test_a_message_is_continued_where_it_ends(tmp_path: Path) -> None:
    """Within its reasoning, or behind it."""
    user = {"role": "user", "content": "a"}
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    async with system(says("hm\n</think>\n\nYes."), config=config(tmp_path, ALWAYS)) as (router, (language,), _):
        thinking = [user, {"role": "assistant", "content": None, "reasoning_content": "Well, "}]
        assert await message_of(router, messages=thinking, **fields) == shown("Yes.", "hm")
        assert prompt_of((await language.request()).generate).endswith("<think>\nWell, ")
        answering = [user, {"role": "assistant", "content": "I say", "reasoning_content": "Well"}]
        assert await message_of(router, messages=answering, **fields) == shown("hm\n</think>\n\nYes.", None)
        assert prompt_of((await language.request(2)).generate).endswith("</think>\n\nI say")


async def test_tools_need_a_place_in_the_template(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with system(says("ok"), config=config(tmp_path, ALWAYS)) as (router, _, _):
        response = await router.chat("hi", tools=tools)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "tools"
