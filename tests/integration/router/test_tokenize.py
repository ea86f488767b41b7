"""/tokenize and /detokenize through a real server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.integration.router.peers import EncodePeer, LanguagePeer, running
from tests.integration.router.system import CONFIG, body_of, ids_of, routing, says, system
from tests.integration.router.test_media import image, text


async def test_a_prompt() -> None:
    prompt = "<|im_start|>user\nžluť"
    async with system(says("ok")) as (router, (language,), _):
        plain = (await router.client.post("/tokenize", json={"prompt": prompt})).json()
        named = (await router.client.post("/tokenize", json={"prompt": "one two", "return_token_strs": True})).json()
        back = (await router.client.post("/detokenize", json={"tokens": plain["tokens"], "model": "demo"})).json()
        nothing = (await router.client.post("/detokenize", json={"tokens": []})).json()
    ids = ids_of(prompt)
    assert plain == {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}
    assert "".join(named["token_strs"]) == "oneĠtwo"
    assert back == {"prompt": prompt}
    assert nothing == {"prompt": ""}
    assert not language.served


async def test_a_conversation() -> None:
    """The same tokens as the completion has, media included, and nothing is generated."""
    content = [text("what is"), image(b"picture"), text("?")]
    async with system(says("ok")) as (router, (language,), _):
        body = body_of(content, chat_template_kwargs={"a": 1})
        counted = (await router.client.post("/tokenize", json=body)).json()
        open_end = (await router.client.post("/tokenize", json=body | {"add_generation_prompt": False})).json()
        assert not language.served
        await router.chat(content)
        assert router.services.budget.used == 0
        assert router.metric("epd_requests_running") == 0
    assert counted["tokens"] == list(language.served[0].generate.prompt_ids)
    assert open_end["tokens"] == counted["tokens"][: open_end["count"]]
    assert open_end["count"] < counted["count"]


async def test_a_prompt_that_is_too_long_is_counted() -> None:
    async with system(says("ok")) as (router, _, _):
        for body in ({"prompt": "word " * 5000}, body_of("word " * 5000)):
            counted = (await router.client.post("/tokenize", json=body)).json()
            assert counted["count"] > counted["max_model_len"]


async def test_what_is_refused() -> None:
    async with system(says("ok"), config=replace(CONFIG, api_key=("key",))) as (router, _, _):
        for path in ("/tokenize", "/detokenize"):
            assert (await router.client.post(path, json={"prompt": "hi", "tokens": []})).status_code == 401
        router.client.headers["authorization"] = "Bearer key"
        both = {"continue_final_message": True, "add_generation_prompt": True}
        bodies: list[tuple[str, dict[str, Any], str | None]] = [
            ("/tokenize", {}, "prompt"),
            ("/tokenize", body_of("hi") | {"prompt": "hi"}, "prompt"),
            ("/tokenize", {"prompt": ["hi"]}, "prompt"),
            ("/tokenize", {"prompt": "hi", "chat_template": "x"}, "chat_template"),
            ("/tokenize", {"prompt": "hi", "add_generation_prompt": True}, "add_generation_prompt"),
            ("/tokenize", body_of("hi", add_special_tokens=True), "add_special_tokens"),
            ("/tokenize", {"messages": []}, "messages"),
            ("/tokenize", body_of("hi") | both, "continue_final_message"),
            ("/tokenize", {"prompt": "half a pair: \ud83d"}, None),
            ("/detokenize", {}, "tokens"),
            ("/detokenize", {"tokens": "hi"}, "tokens"),
            ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
            ("/detokenize", {"tokens": [1, 10**6]}, "tokens"),
        ]  # fmt: skip
        for path, body, param in bodies:
            response = await router.client.post(path, content=json.dumps(body).encode())
            shown = f"{path} {body} -> {response.status_code} {response.text}"
            assert response.status_code == 400, shown
            assert response.json()["error"]["param"] == param, shown
        response = await router.client.post("/tokenize", json={"prompt": "hi", "zebra": 1})
        assert (response.status_code, response.headers["x-ignored-fields"]) == (200, "zebra")


async def test_special_tokens_of_the_tokenizer_itself() -> None:
    """One that puts a token before every text, unless it is told not to. A chat template is the whole prompt."""
    language = LanguagePeer(says("ok"))
    encode = EncodePeer(language.deliver)
    description = json.loads(language.model_files["tokenizer.json"])
    start = "<|endoftext|>"
    (first,) = ids_of(start)
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {start: {"id": start, "ids": [first], "tokens": [start]}},
    }
    language.model_files["tokenizer.json"] = json.dumps(description).encode()
    async with running(language, encode):
        config = replace(CONFIG, language=(language.address,), encode=(encode.address,))
        async with routing(config) as router:
            for given, expected in (({}, [first]), ({"add_special_tokens": False}, [])):
                counted = (await router.client.post("/tokenize", json={"prompt": "hi", **given})).json()
                assert counted["tokens"] == [*expected, *ids_of("hi")]
                assert (await router.client.post("/v1/completions", json={"prompt": "hi", **given})).is_success
                assert list(language.served[-1].generate.prompt_ids) == counted["tokens"]
            assert (await router.chat("hi")).is_success
            assert first not in language.served[-1].generate.prompt_ids
