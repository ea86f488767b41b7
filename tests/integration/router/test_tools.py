"""Tools and structured answers, as the official client sees them and as the language server is asked for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.pb import language_pb2
from tests.integration.router.peers import LanguagePeer
from tests.integration.router.system import TOKENIZER, Router, ids_of, says, system

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn", "days": [1, 2]}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
ASK = [{"role": "user", "content": "How is the weather in Bonn?"}]


@asynccontextmanager
async def asking(text: str) -> AsyncIterator[tuple[Callable[..., Any], Router, LanguagePeer]]:
    """`create` of the client's chat completions, at a model that answers `text`."""
    async with (
        system(says(text)) as (router, (language,), _),
        AsyncOpenAI(base_url=f"{router.address}/v1", api_key="x", max_retries=0) as client,
    ):

        async def create(**fields: Any) -> Any:
            return await client.chat.completions.create(model="demo", **{"messages": ASK, **fields})

        yield create, router, language


def prompt_of(generate: language_pb2.Generate) -> str:
    return str(TOKENIZER.decode(list(generate.prompt_ids), skip_special_tokens=False))


async def collect(chunks: AsyncIterator[ChatCompletionChunk]) -> tuple[str, list[dict[str, str]], str | None]:
    """Text, calls and reason."""
    text: str = ""
    calls: list[dict[str, str]] = []
    reason = None
    async for chunk in chunks:
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                assert call.index == len(calls)
                assert call.type == "function"
                assert call.function.name is not None
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            calls[call.index]["arguments"] += call.function.arguments or ""
    return text, calls, reason


async def test_a_call_and_its_result() -> None:
    async with asking(CALL) as (create, _, language):
        answer: ChatCompletion = await create(tools=[WEATHER])
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "weather"
        assert call.function.arguments == '{"city": "Bonn", "days": [1, 2]}'
        sent = (await language.request()).generate
        assert json.dumps(WEATHER) in prompt_of(sent)
        assert not sent.sampling.HasField("grammar")

        # the message goes back as it came, with a result that has a picture in it
        result = [
            {"type": "text", "text": "a chart"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1hZ2U="}},
        ]
        messages = [*ASK, choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
        await create(messages=messages, tools=[WEATHER])
        sent = (await language.request(2)).generate
        assert f"<|im_start|>assistant\n{CALL}<|im_end|>" in prompt_of(sent)
        assert "<tool_response>\na chart<|vision_start|><|image_pad|>" in prompt_of(sent)
        assert len(sent.spans) == 1


async def test_arguments_come_while_they_are_written() -> None:
    async with asking(CALL) as (create, _, language):
        language.pace = asyncio.Semaphore(len(ids_of(CALL.partition("Bonn")[0])))
        chunks = await create(tools=[WEATHER], stream=True)
        calls = [call async for call in _calls(chunks, until='{"city": "')]
        assert calls[0].function.name == "weather"
        for _ in ids_of(CALL):
            language.pace.release()
        rest = [call.function.arguments async for call in _calls(chunks)]
        assert "".join(rest) == 'Bonn", "days": [1, 2]}'


async def _calls(chunks: AsyncIterator[ChatCompletionChunk], until: str | None = None) -> AsyncIterator[Any]:
    """Pieces of calls, up to where the arguments are `until`."""
    arguments = ""
    async for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or []:
            yield call
            assert call.function is not None
            arguments += call.function.arguments or ""
        if arguments == until:
            return


async def test_a_stream_says_the_same_as_the_whole() -> None:
    second = CALL.replace("Bonn", "Köln 🌋")
    text = f"Let me look.\n{CALL}\n{second}"
    async with asking(text) as (create, _, _):
        said, calls, reason = await collect(await create(tools=[WEATHER], stream=True))
        whole: ChatCompletion = await create(tools=[WEATHER])
    assert said == "Let me look."
    assert reason == "tool_calls"
    assert [call["name"] for call in calls] == ["weather", "weather"]
    assert [json.loads(call["arguments"])["city"] for call in calls] == ["Bonn", "Köln 🌋"]
    assert len({call["id"] for call in calls}) == 2
    message = whole.choices[0].message
    assert message.content == said
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls if call.type == "function"] == [
        call["arguments"] for call in calls
    ]


async def test_one_call_at_most() -> None:
    async with asking(f"{CALL}\n{CALL}") as (create, _, _):
        whole: ChatCompletion = await create(tools=[WEATHER], parallel_tool_calls=False)
        assert len(whole.choices[0].message.tool_calls or []) == 1
        _, calls, _ = await collect(await create(tools=[WEATHER], parallel_tool_calls=False, stream=True))
        assert len(calls) == 1


async def test_required_named_and_strict_calls_have_a_grammar() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    async with asking(CALL) as (create, _, language):
        for count, (fields, reason) in enumerate(
            [
                ({"tools": [WEATHER], "tool_choice": "required"}, "tool_calls"),
                ({"tools": [WEATHER], "tool_choice": named}, "stop"),  # as OpenAI and vLLM have it
                ({"tools": [STRICT]}, "tool_calls"),
            ],
            start=1,
        ):
            answer = await create(**fields)
            assert answer.choices[0].finish_reason == reason
            assert answer.choices[0].message.tool_calls[0].function.name == "weather"
            sent = (await language.request(count)).generate
            assert '"required": ["city"]' in sent.sampling.grammar.source
            assert not sent.sampling.grammar.HasField("after_token_id")
        _, _, reason = await collect(await create(tools=[WEATHER], tool_choice=named, stream=True))
        assert reason == "stop"


async def test_no_call_is_made_if_none_is_wanted() -> None:
    async with asking(CALL) as (create, _, language):
        answer = await create(tools=[WEATHER], tool_choice="none")
        assert answer.choices[0].message.content == CALL
        assert answer.choices[0].message.tool_calls is None
        sent = (await language.request()).generate
        assert json.dumps(WEATHER) in prompt_of(sent)
        assert [list(word.ids) for word in sent.sampling.bad_words] == [ids_of("<tool_call>")]
        answer = await create()
        assert answer.choices[0].message.content == CALL
        assert not (await language.request(2)).generate.sampling.bad_words


async def test_what_is_cut_off_is_shown() -> None:
    async with asking(CALL) as (create, _, _):
        answer = await create(tools=[WEATHER], max_tokens=len(ids_of(CALL)) - 6)
        assert answer.choices[0].finish_reason == "length"
        (call,) = answer.choices[0].message.tool_calls
        assert CALL.split('"arguments": ')[1].startswith(call.function.arguments)
        assert call.function.arguments


async def test_the_format_is_a_grammar() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    async with asking('{"a": 1}') as (create, router, language):
        answer = await create(response_format=wanted)
        assert json.loads(answer.choices[0].message.content) == {"a": 1}
        grammar = (await language.request()).generate.sampling.grammar
        assert json.loads(grammar.source)["grammars"][1]["json_schema"]["properties"] == schema["properties"]
        await create(extra_body={"guided_choice": ["yes", "no"]})
        assert '(\\"yes\\" | \\"no\\")' in (await language.request(2)).generate.sampling.grammar.source
        await create(response_format={"type": "text"})
        assert not (await language.request(3)).generate.sampling.HasField("grammar")
        response = await router.client.post("/v1/completions", json={"prompt": "x", "guided_regex": "a+"})
        assert response.status_code == 200
        assert "/a+/" in (await language.request(4)).generate.sampling.grammar.source


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "time"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [WEATHER["function"]]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"guided_regex": "a"}}, "guided_regex"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "json_object": True}}}, "structured_outputs.regex"),
        ({"extra_body": {"guided_json": "{"}}, "guided_json"),
        ({"extra_body": {"guided_json": "[1]"}}, "guided_json"),
        ({"extra_body": {"guided_regex": "["}}, "guided_regex"),
        ({"extra_body": {"guided_whitespace_pattern": " "}}, "guided_whitespace_pattern"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"extra_body": {"chat_template": "{{ messages }}"}}, "chat_template"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "x"}}}]},
            "tools[0].function.parameters",
        ),
    ],
)
async def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    async with asking("x") as (create, _, language):
        with pytest.raises(BadRequestError) as caught:
            await create(**fields)
        assert caught.value.param == param
        assert not language.served
