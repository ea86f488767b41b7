"""What a chat template is given: a template that shows it all tells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.config import RouterConfig
from tests.integration.router.system import CONFIG, TOKENIZER, body_of, says, system
from tests.integration.router.test_media import image

SHOW_ALL = """{{ {
    'messages': messages, 'tools': tools, 'prompt': add_generation_prompt, 'mood': mood | default(none),
    'effort': reasoning_effort | default(none), 'thinking': enable_thinking | default(none)
} | tojson }}"""
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
}


@pytest.fixture
def config(tmp_path: Path) -> RouterConfig:
    path = tmp_path / "template.jinja"
    path.write_text(SHOW_ALL)
    return replace(CONFIG, chat_template=path)


async def shown(config: RouterConfig, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with system(says("ok"), config=config) as (router, (language,), _):
        response = await router.client.post(path, json=body)
        assert response.status_code == 200, response.text
        ids = list(language.served[0].generate.prompt_ids) if language.served else response.json()["tokens"]
    told: dict[str, Any] = json.loads(TOKENIZER.decode(ids, skip_special_tokens=False))
    return told


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_a_conversation(config: RouterConfig, path: str) -> None:
    call = {"type": "function", "id": "call-1", "function": {"name": "look", "arguments": {"at": "it"}}}
    spelled = {**call, "function": {"name": "look", "arguments": '{"at": "it"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "name": "boss", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": "Look!"},
        {"role": "assistant", "name": "bot", "content": "Well.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "name": "look", "tool_call_id": "call-1", "content": [{"type": "text", "text": "seen"}]},
        {"role": "assistant", "reasoning": "So.", "tool_calls": [spelled, {"function": {"name": "look"}}]},
    ]
    fields = {"tools": [TOOL], "chat_template_kwargs": {"mood": "good"}, "add_generation_prompt": False}
    told = await shown(config, path, {"messages": messages, **fields})
    bare = {"type": "function", "id": None, "function": {"name": "look", "arguments": {}}}
    assert told == {
        "messages": [
            {**messages[0], "role": "system"},
            *messages[1:4],
            {"role": "assistant", "content": "", "reasoning_content": "So.", "tool_calls": [call, bare]},
        ],
        "tools": [TOOL],
        "prompt": False,
        "mood": "good",
        "effort": None,
        "thinking": None,
    }


@pytest.mark.parametrize("place", ["content", "summary"])
async def test_reasoning_of_an_earlier_response(config: RouterConfig, place: str) -> None:
    kind = {"content": "reasoning_text", "summary": "summary_text"}[place]
    thought = {"type": "reasoning", "summary": [], place: [{"type": kind, "text": "Hm."}]}
    items = [{"role": "user", "content": "a"}, thought, {"role": "assistant", "content": "b"}]
    told = await shown(config, "/v1/responses", {"input": [*items, {"role": "user", "content": "c"}]})
    assert told["messages"][1] == {"role": "assistant", "content": "b", "reasoning_content": "Hm."}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", body_of("hi", reasoning_effort="low")),
        ("/v1/responses", {"input": "hi", "reasoning": {"effort": "low"}}),
        ("/v1/messages", body_of("hi", max_tokens=5, output_config={"effort": "low"})),
    ],
)
async def test_reasoning_effort(config: RouterConfig, path: str, body: dict[str, Any]) -> None:
    told = await shown(config, path, body)
    assert (told["effort"], told["thinking"]) == ("low", True)


async def test_strictness_is_not_the_templates_business(config: RouterConfig) -> None:
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    told = await shown(config, "/v1/chat/completions", body_of("hi", tools=[strict], chat_template_kwargs={"mood": 1}))
    assert told["tools"] == [TOOL]
    assert told["prompt"] is True


async def test_the_other_apis(config: RouterConfig) -> None:
    """Options of the template, and of media."""
    options = {"chat_template_kwargs": {"mood": "good"}, "mm_processor_kwargs": {"max_pixels": 9000}}
    picture = image(b"cat")
    source = {"type": "base64", "media_type": "image/png", "data": picture["image_url"]["url"].partition(",")[2]}
    for path, body in (
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", body_of("hi", max_tokens=5)),
    ):
        assert (await shown(config, path, {**body, **options}))["mood"] == "good"
    part = {"type": "input_image", "image_url": picture["image_url"]["url"]}
    async with system(says("ok")) as (router, _, (encode,)):
        for path, body, limit in (
            ("/v1/responses", {"input": [{"role": "user", "content": [part]}]}, {}),
            (
                "/v1/messages",
                body_of([{"type": "image", "source": source}], max_tokens=5),
                {"mm_processor_kwargs": {"max_pixels": 9001}},
            ),
        ):
            response = await router.client.post(path, json={**body, **options, **limit})
            assert response.status_code == 200, response.text
    assert [opened.options.max_pixels for opened in encode.opened] == [9000, 9001]
