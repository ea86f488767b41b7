"""What users entrust to the system is in no process's log, at any level, and in no trace, however requests end."""

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
import pytest

from tests.integration.contract.media import png
from tests.integration.router.web import web_server
from tests.otlp_collector import Collector, collecting
from tests.serving import router_url, wait_states

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
KEY = "sk-Zanzibar-0123456789"
WORD = "quetzalcoatlus"
TOKEN = "token-Hippopotamus"
IMAGE = base64.b64encode(png(64, 64, 7)).decode()
SECRETS = (KEY, WORD, TOKEN, "Hippopotamus", IMAGE[:40], IMAGE[-40:], "IHDR", "ssword")  # IHDR is in every PNG


def question(url: str | None, *, text: str = WORD, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"What is a {text}?"}]
    if url is not None:
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8, **fields}


@pytest.mark.parametrize("is_fake", [True, False], ids=["fakes", "real"])
async def test_no_secret_is_logged_or_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fake: bool) -> None:
    exported: list[bytes] = []  # whole messages: spans with all that they carry
    monkeypatch.setattr(Collector, "take", lambda _, body: exported.append(body))
    state_file, log = tmp_path / "state.json", tmp_path / "log"
    config = tmp_path / "epd.toml"
    config.write_text(f'[router]\napi-key = ["{KEY}"]\nallow-private-media = true\n')
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"match": "break", "error": "INTERNAL"}, {"answer": f"It is a {WORD}."}]))
    command = [sys.executable, "-m", "deploy.cli", "serve", "--port", "0", "--state-file", str(state_file)]
    command += ["--fake"] if is_fake else ["--model", "demo", "--kv-cache-bytes", "64MiB"]
    command += ["--log-level", "debug", "--log-format", "json", "--config", str(config), "--workers", "2"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {"EPD_LANGUAGE_SCRIPT": str(script)} if is_fake else {}
    with (
        collecting() as collector,
        log.open("wb") as output,
        subprocess.Popen(  # noqa: ASYNC220
            command,
            cwd=ROOT,
            stderr=output,
            stdout=output,
            env={**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
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
                assert await ask(question(None, text="break")) == (500 if is_fake else 200)
                assert await ask(question(None, response_format={"type": WORD})) == 400
                assert await ask(question(None, model=WORD)) == 404
                assert await ask({"messages": WORD}) == 400
                assert await ask({"prompt": WORD, "max_tokens": 3}, path="/v1/completions") == 200
                assert await ask(question(None), path=f"/v1/chat/completions?key={TOKEN}") == 200
                assert await ask(question(None), path=f"/v1/{TOKEN}") == 404
                assert await ask({**question(None), KEY: 1, f"a {WORD}": 1, "unheard_of": WORD}) == 200
                assert await ask(question(None), key=f"{KEY}x") == 401
                assert await ask({"prompt": WORD}, path="/tokenize") == 200
                source = {"type": "base64", "media_type": "image/png", "data": IMAGE}
                message = {
                    "role": "user",
                    "content": [{"type": "image", "source": source}, {"type": "text", "text": WORD}],
                }
                for path in ("/v1/messages", "/v1/messages/count_tokens"):
                    body = {"messages": [message], **({"max_tokens": 8} if path == "/v1/messages" else {})}
                    response = await client.post(f"{address}{path}", json=body, headers={"x-api-key": KEY})
                    assert response.status_code == 200
                parts = [{"type": "input_image", "image_url": image}, {"type": "input_text", "text": WORD}]
                items = [{"role": "user", "content": parts}]
                assert await ask({"input": items, "max_output_tokens": 8}, path="/v1/responses") == 200
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
    spans = b"".join(exported).decode("latin-1").lower()
    for name in ("epd-router", "epd-encode", "epd-language", "post /v1/messages", "post /v1/responses", "vision"):
        assert name in spans
    assert [secret for secret in SECRETS if secret.lower() in spans] == []
