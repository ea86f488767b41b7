"""The same model through completions, responses and messages."""

from __future__ import annotations

import base64
from typing import Any

from anthropic import Anthropic
from openai import OpenAI

from deploy.demo.scenes.talk import WEATHER
from tests.integration.contract.asking import strict
from tests.integration.contract.media import data_uri
from tests.integration.seeing.pictures import IMAGE

COLOUR, RED = "What colour is the circle?", "It is red."
HELLO = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
COLD = {"temperature": 0}  # which Anthropic's client has given up
GREETING = "Hello! How can I help you?"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def test_completions(client: OpenAI) -> None:
    fields: dict[str, Any] = {"model": "demo", "prompt": HELLO, "temperature": 0, "max_tokens": 40}
    assert strict(client.completions.create(**fields)).choices[0].text == GREETING
    with client.completions.create(**fields, stream=True) as chunks:
        assert "".join(chunk.choices[0].text for chunk in chunks) == GREETING
    ids = client.post("../tokenize", cast_to=object, body={"prompt": HELLO})["tokens"]  # type: ignore[index]
    assert client.completions.create(**{**fields, "prompt": ids}).choices[0].text == GREETING
    rated = {
        said: client.completions.create(
            **{**fields, "prompt": HELLO + said, "max_tokens": 0}, echo=True, logprobs=1
        ).choices[0]
        for said in (GREETING, "Hello! How can you help me?")
    }
    scores = [sum(choice.logprobs.token_logprobs[1:]) for choice in rated.values()]  # type: ignore[union-attr,index,misc]
    assert scores[0] > scores[1] + 5, "what was learnt is likelier"


def test_many_completions(client: OpenAI) -> None:
    """Lists of texts, and several answers to each."""
    prompts = [f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n" for said in ("Hello!", "Thank you!")]
    fields: dict[str, Any] = {"model": "demo", "prompt": prompts, "temperature": 0, "max_tokens": 40, "n": 2}
    whole = strict(client.completions.create(**fields))
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in whole.choices] == [GREETING, GREETING, "You're welcome!", "You're welcome!"]
    texts = [""] * 4
    with client.completions.create(**fields, stream=True) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    hot = client.completions.create(**{**fields, "temperature": 3.0, "seed": 7, "max_tokens": 12})
    assert len({choice.text for choice in hot.choices}) == 4


def test_models_and_tokens(client: OpenAI) -> None:
    (card,) = client.models.list()
    assert (strict(card).id, client.models.retrieve("demo")) == ("demo", card)
    told: Any = client.post("../tokenize", cast_to=object, body={"prompt": HELLO})
    assert told["max_model_len"] == card.max_model_len  # type: ignore[attr-defined]
    back = client.post("../detokenize", cast_to=object, body={"tokens": told["tokens"]})
    assert back == {"prompt": HELLO}


def test_responses(client: OpenAI) -> None:
    content = [{"type": "input_image", "image_url": data_uri(IMAGE)}, {"type": "input_text", "text": COLOUR}]
    fields: dict[str, Any] = {"model": "demo", "input": [{"role": "user", "content": content}], "temperature": 0}
    assert strict(client.responses.create(**fields)).output_text == RED
    with client.responses.stream(**fields) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert ("".join(deltas), events.get_final_response().output_text) == (RED, RED)
    tool = {"type": "function", "name": WEATHER.name, "parameters": SCHEMA, "description": WEATHER.description}
    asked = client.responses.create(
        model="demo", input="What is the weather in Rome?", tools=[tool], temperature=0, tool_choice="required"
    )
    (call,) = asked.output
    assert (call.type, call.arguments) == ("function_call", '{"city": "Rome"}')  # type: ignore[union-attr]


def test_messages(claude: Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(IMAGE).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": COLOUR}]
    messages = [{"role": "user", "content": content}]
    fields: dict[str, Any] = {"model": "demo", "max_tokens": 40, "messages": messages, "extra_body": COLD}
    answer = strict(claude.messages.create(**fields))
    assert answer.content[0].text == RED  # type: ignore[union-attr]
    with claude.messages.stream(**fields) as events:
        assert events.get_final_text() == RED
    counted = claude.messages.count_tokens(model="demo", messages=messages)  # type: ignore[arg-type]
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    tool = {"name": WEATHER.name, "description": WEATHER.description, "input_schema": SCHEMA}
    asked = [{"role": "user", "content": "What is the weather in Rome?"}]
    (call,) = claude.messages.create(
        model="demo", max_tokens=60, messages=asked, tools=[tool], tool_choice={"type": "any"}, extra_body=COLD
    ).content
    assert (call.type, call.input) == ("tool_use", {"city": "Rome"})  # type: ignore[union-attr]
