"""`make demo`: three servers from the small checkpoint, a question about an image, the streamed answer."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from common.logs import setup_logging
from deploy.local import run
from deploy.programs import demo_folder
from deploy.serve_config import ServeConfig

IMAGE = "four-shapes.jpg"
QUESTION = "What is in this image?"
MAX_TOKENS = 64
PORT = 8000


class DemoError(Exception):
    """The answer is not what it should be; the message says how."""


class Progress:
    """Lines with the time since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._begin:5.1f} s] {line}", flush=True)


def free_port(say: Progress) -> int:
    """The usual port, or any free one if that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            say(f"port {PORT} is taken, so another one is used")
            return 0
    return PORT


def question(model: str, image: Path) -> dict[str, Any]:
    """A chat request about an image, which travels inside of it."""
    data = base64.b64encode(image.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
        {"type": "text", "text": QUESTION},
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_timings": True,
    }


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event. Raises DemoError if the stream ends without its [DONE]."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise DemoError("the stream ended in the middle")


def printable(text: str) -> str:
    """Without what a terminal would take for a command: a model can say anything."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


async def ask(client: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Sends the request and prints its answer as it comes, then a line with the time of each stage.

    Raises:
        DemoError: anything but a whole answer came back.
    """
    begin = time.monotonic()
    first, finish = 0.0, None
    usage: dict[str, int] = {}
    timings: dict[str, float] = {}
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        if response.status_code != httpx.codes.OK:
            raise DemoError(f"HTTP {response.status_code}: {(await response.aread()).decode()}")
        async for event in events(response):
            if "error" in event:
                raise DemoError(f"the stream broke off: {event['error']['message']}")
            for choice in event["choices"]:
                first = first or time.monotonic()
                print(printable(choice["delta"].get("content") or ""), end="", flush=True)
                finish = choice["finish_reason"] or finish
            usage = event.get("usage") or usage
            timings = event.get("timings") or timings
    print()
    if finish is None or not usage.get("completion_tokens"):
        raise DemoError(f"the answer is not whole: finish_reason {finish}, usage {usage}")
    stages = " · ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in timings.items())
    print(
        f"\ntime in ms: {stages} | first token {(first - begin) * 1e3:.0f}, all {(time.monotonic() - begin) * 1e3:.0f}"
    )
    print(f"tokens: {usage['prompt_tokens']} in the prompt, {usage['completion_tokens']} in the answer")


def curl(url: str, model: str, image: Path) -> str:
    body = (
        f'{{"model": "{model}", "stream": true, "max_tokens": 64, "messages": [{{"role": "user", "content": ['
        '{"type": "image_url", "image_url": {"url": "data:image/png;base64,\'$(base64 -w0 ' + str(image) + ")'\"}}, "
        '{"type": "text", "text": "Describe the image."}]}]}'
    )
    return f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


async def demo(once: bool, fake: bool) -> int:
    say = Progress()
    config = ServeConfig(
        model=str(demo_folder() / "model"),
        fake=fake,
        port=0 if once else free_port(say),
        log_level="warning",
        served_model_name=("demo",),
    )

    async def use(url: str) -> int:
        images = demo_folder() / "images"
        async with httpx.AsyncClient(base_url=url, timeout=120.0, trust_env=False) as client:
            say(f"asking about {images / IMAGE}")
            if fake:
                print("\nNote: the servers are fakes: they make embeddings and answers up.")
            print(f"\n> {QUESTION}\n")
            try:
                await ask(client, question("demo", images / IMAGE))
            except (DemoError, httpx.HTTPError) as error:
                print(f"\nthe demo failed: {error}", file=sys.stderr)
                return 1
        if once:
            return 0
        print(f"\nServing at {url} until Ctrl-C. Try:\n\n{curl(url, 'demo', images / 'stripes.png')}\n", flush=True)
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never

    say("starting an encode server, a language server and a router")
    return await run(config, say=say, use=use)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the answer")
    parser.add_argument("--fake", action="store_true", help="with servers that need no weights and no torch")
    arguments = parser.parse_args()
    setup_logging("demo", "error")
    return asyncio.run(demo(arguments.once, arguments.fake))


if __name__ == "__main__":
    sys.exit(main())
