"""What the fakes can only play: the features of chat completions, on a model that knows what it says."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from deploy.demo.scenes.scoring import iou
from deploy.demo.scenes.talk import WEATHER
from tests.integration.contract.asking import ask, stream, streamed_text, text_of, user
from tests.integration.seeing.pictures import CIRCLE, CLIP, OTHER, PICTURE, frames, seen

COLOUR, RED = "What colour is the circle?", "It is red."
PLACE = "Where is the red circle?"
THINK = "Think first: what is 3 plus 4?"
BOX = CIRCLE.box(PICTURE.width, PICTURE.height)
TOOLS = [WEATHER.schema()]


def look(
    client: OpenAI, question: str = COLOUR, *, extra: dict[str, Any] | None = None, **fields: Any
) -> ChatCompletion:
    return ask(client, seen(question, PICTURE), **{"temperature": 0, "extra_body": extra or {}, **fields})


def tokens(client: OpenAI, text: str) -> list[int]:
    return client.post("../tokenize", cast_to=object, body={"prompt": text})["tokens"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (COLOUR, RED),
        ("What shape is the blue object?", "It is a square."),
        ("How many objects are there?", "There are 2 objects."),
        ("Is the red circle left or right of the blue square?", "It is left of the blue square."),
        ("Is the blue square above or below the red circle?", "It is below the red circle."),
        ("What is in this image?", "There are 2 objects: a red circle and a blue square."),
    ],
)
def test_answers(client: OpenAI, question: str, answer: str) -> None:
    whole = look(client, question)
    assert (text_of(whole), whole.choices[0].finish_reason) == (answer, "stop")
    fields = {"temperature": 0, "stream_options": {"include_usage": True}}
    *chunks, last = stream(client, seen(question, PICTURE), **fields)
    assert streamed_text(chunks) == answer
    assert len(chunks) > 4
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]


def test_ways_to_ask(client: OpenAI) -> None:
    whole = "Which picture shows a green star?"
    assert text_of(ask(client, seen(whole, PICTURE, OTHER), temperature=0)) == "The second picture."
    assert text_of(ask(client, seen(whole, OTHER, PICTURE), temperature=0)) == "The first picture."
    moves = [frames(CLIP), {"type": "text", "text": "Which way does the square move?"}]
    assert text_of(ask(client, moves, temperature=0)) == "It moves right."
    turns = [*user(seen(COLOUR, PICTURE)), {"role": "assistant", "content": RED}, *user("And the square?")]
    assert text_of(ask(client, messages=turns, temperature=0)) == "It is blue."
    assert text_of(ask(client, "Hello!", temperature=0)) == "Hello! How can I help you?"
    open_end = [*user(seen(COLOUR, PICTURE)), {"role": "assistant", "content": "It is"}]
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    assert text_of(ask(client, messages=open_end, temperature=0, extra_body=goes_on)) == " red."


def test_images(client: OpenAI) -> None:
    whole = look(client)
    assert whole.usage is not None
    details = whole.usage.prompt_tokens_details
    assert details.image_tokens == 64  # type: ignore[union-attr]
    assert details.cached_tokens >= 48, "the picture is known by now"  # type: ignore[union-attr,operator]
    small = look(client, extra={"mm_processor_kwargs": {"max_pixels": 192 * 192}})
    assert (text_of(small), small.usage.prompt_tokens_details.image_tokens) == (RED, 36)  # type: ignore[union-attr]
    assert text_of(ask(client, seen(COLOUR, PICTURE, detail="low"), temperature=0)) == RED
    image, question = seen(COLOUR, PICTURE)
    assert text_of(ask(client, [{**image, "uuid": "a-picture"}, question], temperature=0)) == RED
    by_name = {"type": "image_url", "image_url": None, "uuid": "a-picture"}
    assert text_of(ask(client, [by_name, question], temperature=0)) == RED


def test_logprobs(client: OpenAI) -> None:
    answer = look(client, logprobs=True, top_logprobs=5, extra={"prompt_logprobs": 1, "return_token_ids": True})
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    entries = logprobs.content or []
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == RED
    (red,) = (entry for entry in entries if entry.token == " red")
    assert math.exp(red.logprob) > 0.5
    assert red.top_logprobs[0].token == " red"
    assert {len(entry.top_logprobs) for entry in entries} == {5}
    assert sum(math.exp(top.logprob) for top in red.top_logprobs) <= 1.001
    first, *others = answer.prompt_logprobs  # type: ignore[attr-defined]
    assert first is None
    assert len(others) + 1 == len(answer.prompt_token_ids) == answer.usage.prompt_tokens  # type: ignore[attr-defined,union-attr]


def test_draws(client: OpenAI) -> None:
    hot: dict[str, Any] = {"temperature": 3.0, "n": 4, "max_tokens": 12}
    first, again = ([choice.message.content for choice in look(client, seed=7, **hot).choices] for _ in range(2))
    assert first == again
    assert len(set(first)) > 1, "choices differ"
    assert first != [choice.message.content for choice in look(client, seed=8, **hot).choices]
    assert text_of(look(client, temperature=3.0, seed=1)) != RED
    for narrow in ({"top_k": 1}, {"min_p": 1.0}):
        assert text_of(look(client, temperature=3.0, seed=1, extra=narrow)) == RED
    assert text_of(look(client, temperature=3.0, seed=1, top_p=1e-6)) == RED


def test_a_seed_decides_whoever_else_is_there(client: OpenAI) -> None:
    def draw(seed: int) -> str | None:
        return text_of(look(client, temperature=3.0, seed=seed, max_tokens=12))

    alone = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, [0, 1, 2, 3, 3, 2, 1, 0]))
    assert together == alone + alone[::-1]
    assert len(set(alone)) > 1


def test_rules(client: OpenAI) -> None:
    (red,) = tokens(client, " red")
    for fields in ({"logit_bias": {str(red): -100}}, {"extra": {"bad_words": ["red"]}}):
        assert "red" not in (text_of(look(client, max_tokens=6, **fields)) or "")
    allowed = tokens(client, "It is blue.<|im_end|>")
    assert text_of(look(client, extra={"allowed_token_ids": allowed})) == "It is blue."
    endless = {"ignore_eos": True, "return_token_ids": True}
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"extra": {"repetition_penalty": 3.0}}):
        bare = look(client, max_tokens=60, extra=endless)
        punished = look(client, max_tokens=60, **{**penalty, "extra": {**endless, **penalty.get("extra", {})}})
        kinds = [len(set(answer.choices[0].token_ids)) for answer in (bare, punished)]  # type: ignore[attr-defined]
        assert kinds[0] < kinds[1], penalty


def test_ends(client: OpenAI) -> None:
    assert text_of(look(client, stop=["s re"])) == "It i"
    assert text_of(look(client, stop=["s re"], extra={"include_stop_str_in_output": True})) == "It is re"
    stopped = look(client, extra={"stop_token_ids": tokens(client, " red")})
    assert (text_of(stopped), stopped.choices[0].finish_reason) == ("It is", "stop")
    for field in ("max_tokens", "max_completion_tokens"):
        cut = look(client, **{field: 3})
        assert (text_of(cut), cut.choices[0].finish_reason) == ("It is", "length")
    longer = look(client, extra={"min_tokens": 20}, max_tokens=30)
    assert longer.usage.completion_tokens >= 20  # type: ignore[union-attr]
    shown = look(client, max_tokens=6, extra={"ignore_eos": True, "skip_special_tokens": False})
    assert (text_of(shown) or "").startswith(f"{RED}<|im_end|>")


class Place(BaseModel):
    bbox_2d: tuple[int, int, int, int]


def test_places(client: OpenAI) -> None:
    """Where things are, free and under grammars of all kinds."""
    schema = {
        "type": "object",
        "properties": {"bbox_2d": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}},
        "required": ["bbox_2d"],
        "additionalProperties": False,
    }
    strictly = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    spellings: list[dict[str, Any]] = [
        {},
        {"response_format": {"type": "json_object"}},
        {"response_format": strictly},
        {"extra": {"guided_json": schema}},
        {"extra": {"structured_outputs": {"regex": r"\{\"bbox_2d\": \[\d+(, \d+){3}\]\}"}}},
        {"extra": {"guided_grammar": 'start: "{" "\\"bbox_2d\\"" ": [" N ", " N ", " N ", " N "]}"\nN: /[0-9]+/'}},
    ]
    for fields in spellings:
        place = Place.model_validate_json(text_of(look(client, PLACE, **fields)) or "")
        assert iou(place.bbox_2d, BOX) > 0.7, fields
    parsed = client.chat.completions.parse(
        model="demo", messages=user(seen(PLACE, PICTURE)), temperature=0, response_format=Place
    )
    assert iou(parsed.choices[0].message.parsed.bbox_2d, BOX) > 0.7  # type: ignore[union-attr]


def test_choices(client: OpenAI) -> None:
    wrong = ["It is blue.", "It is green.", "It is white."]
    assert text_of(look(client, extra={"guided_choice": [*wrong, RED]})) == RED
    assert text_of(look(client, extra={"structured_outputs": {"choice": wrong}})) in wrong


def test_tools(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    for choice in ("auto", "required", {"type": "function", "function": {"name": WEATHER.name}}):
        fields: dict[str, Any] = {"temperature": 0, "tools": TOOLS, "tool_choice": choice}
        (call,) = ask(client, question, **fields).choices[0].message.tool_calls or []
        assert (call.function.name, json.loads(call.function.arguments)) == (WEATHER.name, {"city": "Paris"})  # type: ignore[union-attr]
        chunks = stream(client, question, **fields)
        pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
        assert "".join(piece.function.arguments or "" for piece in pieces if piece.function) == call.function.arguments  # type: ignore[union-attr]
    none = ask(client, question, temperature=0, tools=TOOLS, tool_choice="none", max_tokens=30)
    assert not none.choices[0].message.tool_calls
    assert "<tool_call>" not in (text_of(none) or "")


def test_thoughts(client: OpenAI) -> None:
    answer = ask(client, THINK, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.reasoning_content) == ("7", "3 plus 4 is 7.")  # type: ignore[attr-defined]
    details = answer.usage.completion_tokens_details  # type: ignore[union-attr]
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens  # type: ignore[union-attr,operator]
    chunks = stream(client, THINK, temperature=0)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert ("".join(thoughts), streamed_text(chunks)) == ("3 plus 4 is 7.", "7")
    assert sum(map(bool, thoughts)) > 1, "it comes as it is thought"
    assert not any(thought and delta.content for thought, delta in zip(thoughts, deltas, strict=True))
    hidden = ask(client, THINK, temperature=0, extra_body={"include_reasoning": False})
    assert hidden.choices[0].message.to_dict() == {"role": "assistant", "content": "7", "refusal": None}
    assert hidden.usage.completion_tokens == answer.usage.completion_tokens  # type: ignore[union-attr]
    silent = stream(client, THINK, temperature=0, extra_body={"include_reasoning": False})
    assert streamed_text(silent) == "7"
    assert not any("reasoning" in chunk.choices[0].delta.to_dict() for chunk in silent)


def test_usage_so_far(client: OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = stream(client, seen(COLOUR, PICTURE), temperature=0, stream_options=options)
    usages = [chunk.usage for chunk in (*chunks, last)]
    counts = [usage.completion_tokens for usage in usages if usage is not None]
    assert len(counts) == len(usages)
    assert counts == sorted(counts)
    assert counts[0] < 2
    assert counts[-1] == look(client).usage.completion_tokens  # type: ignore[union-attr]
    assert len(set(counts)) > 3
    assert len({usage.prompt_tokens for usage in usages if usage is not None}) == 1
