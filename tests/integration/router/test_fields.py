"""What each honoured field becomes on its way to a language server: dropping the handling of one makes its row fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from common.pb import language_pb2
from router.api.generation import GenerationRequest
from tests.integration.router.peers import LanguagePeer
from tests.integration.router.system import CONFIG, Router, body_of, ids_of, says, system

PATHS = {
    "/v1/chat/completions": body_of("hi"),
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": body_of("hi", max_tokens=9),
}
# Their answers have no place for these.
NOT_FOR = {"/v1/responses": {"prompt_logprobs"}, "/v1/messages": {"prompt_logprobs"}}

# field, value, attribute of SamplingParams, its value there, its value if the field is not given (None: a random one)
WIRE: list[tuple[str, Any, str, Any, Any]] = [
    ("max_tokens", 7, "max_tokens", 7, ...),
    ("temperature", 0.25, "temperature", 0.25, 0),  # the checkpoint of these tests is greedy
    ("top_p", 0.5, "top_p", 0.5, 1),
    ("top_k", 3, "top_k", 3, 0),
    ("min_p", 0.125, "min_p", 0.125, 0),
    ("seed", 11, "seed", 11, ...),
    ("stop_token_ids", [5, 6], "stop_token_ids", [5, 6], []),
    ("ignore_eos", True, "ignore_eos", True, False),
    ("min_tokens", 2, "min_tokens", 2, 0),
    ("presence_penalty", 0.5, "presence_penalty", 0.5, 0),
    ("frequency_penalty", -1.5, "frequency_penalty", -1.5, 0),
    ("repetition_penalty", 1.25, "repetition_penalty", 1.25, 1),
    ("logit_bias", {"7": 1, "1251": -100}, "logit_bias", {7: 1, 1251: -100}, {}),
    ("allowed_token_ids", [7, 8], "allowed_token_ids", [7, 8], []),
    ("bad_words", ["one"], "bad_words", [ids_of("one"), ids_of(" one")], []),
    ("prompt_logprobs", 2, "prompt_logprobs", 2, None),
]
# Honoured by the router itself; the tests of these are named beside them.
SHOWN = {
    "model",  # test_bad_input.py, test_text.py
    "stream",  # test_text.py
    "stream_options",  # likewise
    "n",  # likewise
    "stop",  # likewise
    "include_stop_str_in_output",  # likewise
    "skip_special_tokens",  # likewise
    "return_timings",  # likewise
    "return_token_ids",  # likewise
    "return_tokens_as_token_ids",  # test_logprobs.py
}


def on_the_wire(params: language_pb2.SamplingParams, attribute: str) -> Any:
    match attribute:
        case "prompt_logprobs" | "logprobs":
            return getattr(params, attribute) if params.HasField(attribute) else None
        case "bad_words":
            return [list(sequence.ids) for sequence in params.bad_words]
        case "logit_bias":
            return dict(params.logit_bias)
        case "stop_token_ids" | "allowed_token_ids":
            return list(getattr(params, attribute))
        case _:
            return getattr(params, attribute)


async def sampling_of(
    router: Router, language: LanguagePeer, path: str, body: dict[str, Any]
) -> language_pb2.SamplingParams:
    response = await router.client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert "x-ignored-fields" not in response.headers
    return language.served[-1].generate.sampling


def test_every_field_is_looked_at() -> None:
    assert {name for name, *_ in WIRE} | SHOWN == set(GenerationRequest.model_fields)


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_language_server_is_told(path: str) -> None:
    body = PATHS[path]
    async with system(says("one two three")) as (router, (language,), _):
        for field, value, attribute, expected, _ in WIRE:
            if field not in NOT_FOR.get(path, ()):
                told = await sampling_of(router, language, path, body | {field: value})
                assert on_the_wire(told, attribute) == expected, field
        for absent in ({}, {field: None for field, *_ in WIRE if field not in body}):
            told = await sampling_of(router, language, path, body | absent)
            for field, _, attribute, _, default in WIRE:
                if default is not ...:
                    assert on_the_wire(told, attribute) == default, field


async def test_fields_of_one_api() -> None:
    async with system(says("one two three")) as (router, (language,), _):

        async def told(path: str, **fields: Any) -> language_pb2.SamplingParams:
            return await sampling_of(router, language, path, PATHS[path] | fields)

        chat, completions, responses, messages = PATHS
        assert (await told(chat, max_completion_tokens=5)).max_tokens == 5
        assert (await told(responses, max_output_tokens=5)).max_tokens == 5
        assert (await told(messages, stop_sequences=["a"], stop=["b"])).max_tokens == 9
        assert (await told(chat, logprobs=True)).logprobs == 0
        assert (await told(chat, logprobs=True, top_logprobs=3)).logprobs == 3
        assert not (await told(chat, logprobs=False)).HasField("logprobs")
        assert (await told(completions, logprobs=4)).logprobs == 4
        assert not (await told(completions)).HasField("logprobs")
        assert (await told(completions)).max_tokens == 16
        assert (await told(completions, echo=True, logprobs=1)).prompt_logprobs == 1
        told_twice = [await told(chat, top_k=0), await told(chat, top_k=-1)]
        assert [params.top_k for params in told_twice] == [0, 0]


async def test_unknown_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Named to the client, counted, and logged once."""
    caplog.set_level(logging.WARNING, "router")
    async with system(says("ok")) as (router, _, _):
        body = body_of("hi", zebra=1, user="me", nothing=None)
        body["messages"][0]["stripes"] = 2
        for path, fields, expected in (
            ("/v1/chat/completions", body, "zebra, messages[0].stripes"),
            ("/v1/chat/completions", {**body, "stream": True}, "zebra, messages[0].stripes"),
            ("/v1/completions", {"prompt": "hi", "zebra": 1}, "zebra"),
        ):
            response = await router.client.post(path, json=fields)
            assert (response.status_code, response.headers["x-ignored-fields"]) == (200, expected)
        assert router.metric("epd_ignored_fields_total") == 5
    logged = [record.getMessage() for record in caplog.records if "zebra" in record.getMessage()]
    assert len(logged) == 1


async def test_strict_fields() -> None:
    async with system(says("ok"), config=replace(CONFIG, strict_fields=True)) as (router, (language,), _):
        body = body_of("hi", user="me", nothing=None)
        assert (await router.client.post("/v1/chat/completions", json=body)).status_code == 200
        body["messages"][0]["stripes"] = 2
        response = await router.client.post("/v1/chat/completions", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "messages[0].stripes")
        assert error["code"] == "unknown_parameter"
        assert len(language.served) == 1
        own = [{"role": "assistant", "content": "a", "provider_specific_fields": {"refusal": None}}]  # of LiteLLM
        asked = {"role": "user", "content": "b"}
        response = await router.client.post("/v1/chat/completions", json={"messages": [*own, asked]})
        assert (response.status_code, "x-ignored-fields" in response.headers) == (200, False)
