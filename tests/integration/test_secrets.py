"""What users entrust to the system is in no process's log, at any level, however their requests end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.integration.fakes.stub_router import image_of
from tests.integration.router.web import web_server
from tests.serving import router_url, wait_states

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
KEY = "sk-Zanzibar-0123456789"
WORD = "quetzalcoatlus"
TOKEN = "token-Hippopotamus"
IMAGE = base64.b64encode(image_of(64, 64, 7)).decode()
SECRETS = (KEY, WORD, TOKEN, "Hippopotamus", IMAGE[:40], IMAGE[-40:], "ssword")


def question(url: str | None, *, text: str = WORD, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"What is a {text}?"}]
    if url is not None:
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8, **fields}


async def test_no_secret_is_logged(tmp_path: Path) -> None:
    state_file, log = tmp_path / "state.json", tmp_path / "log"
    config = tmp_path / "epd.toml"
    config.write_text(f'[router]\napi-key = ["{KEY}"]\nallow-private-media = true\n')
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"match": "break", "error": "INTERNAL"}, {"answer": f"It is a {WORD}."}]))
    command = [sys.executable, "-m", "deploy.cli", "serve", "--fake", "--port", "0", "--state-file", str(state_file)]
    command += ["--log-level", "debug", "--log-format", "json", "--config", str(config), "--workers", "2"]
    environ = {**os.environ, "EPD_LANGUAGE_SCRIPT": str(script)}
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: ASYNC220
            command, cwd=ROOT, stderr=output, stdout=output, env=environ
        ) as process,
    ):
        try:
            async with web_server() as web, httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
                address = router_url(await asyncio.to_thread(wait_states, process, state_file, log))

                async def ask(body: Any, key: str = KEY, path: str = "/v1/chat/completions", **extra: Any) -> int:
                    headers = {"authorization": f"Bearer {key}"}
                    return (await client.post(f"{address}{path}", json=body, headers=headers, **extra)).status_code

                image = f"data:image/png;base64,{IMAGE}"
                with_password = web.url.replace("http://", "http://user:password@")
                assert await ask(question(image)) == 200
                assert await ask(question(image, stream=True, user=WORD)) == 200
                assert await ask(question(f"{web.url}/image?{TOKEN}")) == 400  # not an image that the fake knows
                assert await ask(question(f"{web.url}/page?{TOKEN}")) == 400
                assert await ask(question(f"{web.url}/redirect?to=/nothing%3F{TOKEN}")) == 400
                assert await ask(question(f"http://{TOKEN}.invalid/{TOKEN}")) == 400
                assert await ask(question(f"{with_password}/image")) == 400
                assert await ask(question(f"data:image/png;base64,{IMAGE[:40]}!{WORD}")) == 400
                assert await ask(question(None, text="break")) == 500
                assert await ask(question(None, response_format={"type": WORD})) == 400
                assert await ask(question(None, model=WORD)) == 404
                assert await ask({"messages": WORD}) == 400
                assert await ask({"prompt": WORD, "max_tokens": 3}, path="/v1/completions") == 200
                assert await ask(question(None), path=f"/v1/chat/completions?key={TOKEN}") == 200
                assert await ask(question(None), path=f"/v1/{TOKEN}") == 404
                assert await ask({**question(None), KEY: 1, f"a {WORD}": 1, "unheard_of": WORD}) == 200
                assert await ask(question(None), key=f"{KEY}x") == 401
                assert await ask({"prompt": WORD}, path="/tokenize") == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    text = log.read_text()
    for role in ("router", "encode", "language"):
        assert role in text
    assert text.count("chat completion") > 10, "requests are logged"
    assert text.count("generate") >= 3
    assert "media_bytes" in text, "also what is logged at debug only"
    assert "unheard_of, 2 with names that are no words" in text
    found = [line for line in text.splitlines() if any(secret.lower() in line.lower() for secret in SECRETS)]
    assert found == []
