"""`make eval`: the frozen questions over HTTP, a table by kind of question, and a sheet of samples to look at.

    python -m deploy.demo.evaluate [--base-url URL]

Without a URL it serves the demo's checkpoint by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import httpx

from common.logs import setup_logging
from deploy.demo.scenes.drawing import draw, draw_clip, png
from deploy.demo.scenes.frozen import CLIP_FPS, frozen_cases
from deploy.demo.scenes.question import Case, Question
from deploy.demo.scenes.scene import Clip
from deploy.demo.scenes.table import rows, table
from deploy.demo.sheet import write_sheet
from deploy.local import run
from deploy.programs import demo_folder
from deploy.serve_config import ServeConfig

DType = Literal["auto", "bfloat16", "float32"]

MAX_TOKENS = 96
_CONCURRENCY = 8
_SHEET_ITEMS = 48


class EvaluationError(Exception):
    """There is nothing to evaluate; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for one question: the text of the answer, or why there is none."""

    text: str
    error: str | None = None


async def ask_all(client: httpx.AsyncClient, model: str, cases: Sequence[Case], *, blind: bool = False) -> list[Reply]:
    """Answers at temperature 0, in the order of the cases.

    Args:
        client: its base URL is the router's.
        model: name to ask for.
        cases: of one question each.
        blind: without the pictures.
    """
    gate = asyncio.Semaphore(_CONCURRENCY)

    async def one(case: Case) -> Reply:
        async with gate:
            return await _ask(client, chat_request(model, case, blind=blind))

    return list(await asyncio.gather(*map(one, cases)))


def chat_request(model: str, case: Case, *, blind: bool = False) -> dict[str, Any]:
    """The body of a chat completion that asks the only question of `case`."""
    (question,) = case.questions
    request = {
        "model": model,
        "messages": _messages(question, [] if blind else _media_parts(case)),
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    return request | ({"tools": [tool.schema() for tool in question.tools]} if question.tools else {})


def answer_text(message: dict[str, Any]) -> str:
    """What the model wrote, where the server has parsed thoughts and tool calls out of it too."""
    text = message.get("content") or ""
    if thought := message.get("reasoning_content"):
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text.lstrip()}"
    for call in message.get("tool_calls") or []:
        function = call["function"]
        body = json.dumps({"name": function["name"], "arguments": json.loads(function["arguments"])})
        text += f"<tool_call>\n{body}\n</tool_call>"
    return text


async def _ask(client: httpx.AsyncClient, request: dict[str, Any]) -> Reply:
    response = await client.post("/v1/chat/completions", json=request)
    if response.status_code != httpx.codes.OK:
        return Reply(text="", error=f"HTTP {response.status_code}: {response.text[:300]}")
    return Reply(text=answer_text(response.json()["choices"][0]["message"]))


def _messages(question: Question, media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for text, answer in question.history:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": question.text})
    if media:
        messages[0]["content"] = [*media, {"type": "text", "text": messages[0]["content"]}]
    return messages


def _media_parts(case: Case) -> list[dict[str, Any]]:
    if isinstance(case.media, Clip):
        return [{"type": "video", "video": [_data_uri(png(frame)) for frame in draw_clip(case.media)], "fps": CLIP_FPS}]
    return [{"type": "image_url", "image_url": {"url": _data_uri(png(draw(scene)))}} for scene in case.media]


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is asked and where the results go.

    Attributes:
        items: so many of the frozen questions; all if None.
        model: name to ask for; None: the first one that is served.
        api_key: None: none.
        blind: also ask without the pictures.
        answers: a JSON file for all answers.
        sheet: a PNG file.
        check: a missed target is a failure.
    """

    items: int | None
    model: str | None
    api_key: str | None
    blind: bool
    answers: Path | None
    sheet: Path | None
    check: bool


async def evaluate(url: str, options: EvaluationOptions) -> int:
    """Asks, prints, writes; returns the exit status: 1 if any request failed, or with `check` any target."""
    cases = frozen_cases(options.items)
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    base = url.rstrip("/").removesuffix("/v1")
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=300.0, trust_env=False) as client:
        model = options.model or await _first_model(client)
        print(f"asking {model} at {base} {len(cases)} questions", flush=True)
        begin = time.monotonic()
        replies = await ask_all(client, model, cases)
        print(f"answered in {time.monotonic() - begin:.0f} s", flush=True)
        blind = await ask_all(client, model, cases, blind=True) if options.blind else None
    questions = [case.questions[0] for case in cases]
    answers = [reply.text for reply in replies]
    result = rows(questions, answers)
    columns = {"right": result}
    if blind is not None:
        columns["without the picture"] = rows(questions, [reply.text for reply in blind])
    print(f"\n{table(columns)}\n")
    if options.answers is not None:
        options.answers.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.sheet is not None:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(options.sheet, cases[:_SHEET_ITEMS], answers[:_SHEET_ITEMS])
        print(f"samples to look at: {options.sheet}")
    errors = [reply.error for reply in (*replies, *(blind or [])) if reply.error]
    if errors:
        print(f"{len(errors)} requests failed; the first one: {errors[0]}", file=sys.stderr)
    missed = options.check and not all(row.reached for row in result)
    return 1 if errors or missed else 0


async def _first_model(client: httpx.AsyncClient) -> str:
    try:
        response = await client.get("/v1/models")
    except httpx.TransportError as error:
        raise EvaluationError(f"no answer from {client.base_url}: {error!r}") from error
    if response.status_code != httpx.codes.OK:
        raise EvaluationError(f"{client.base_url}/v1/models says HTTP {response.status_code}: {response.text[:300]}")
    return str(response.json()["data"][0]["id"])


async def serve_and_evaluate(model: Path, dtype: DType, options: EvaluationOptions) -> int:
    """Starts the three services with a checkpoint, evaluates, stops them."""
    config = ServeConfig(model=str(model), port=0, log_level="warning", served_model_name=("demo",), dtype=dtype)

    async def use(url: str) -> int:
        return await evaluate(url, options)

    return await run(config, say=lambda line: print(line, flush=True), use=use)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.evaluate", description="Ask the frozen questions of a running router."
    )
    parser.add_argument("--base-url", help="of the router; default: serve --checkpoint here")
    parser.add_argument("--checkpoint", type=Path, default=demo_folder() / "model", help="served if there is no URL")
    parser.add_argument(
        "--dtype", choices=get_args(DType), default="auto", help="of the checkpoint that is served here"
    )
    parser.add_argument("--model", help="name to ask for; default: the first one that is served")
    parser.add_argument("--api-key", help="of a router that wants one")
    parser.add_argument("--items", type=int, help="only so many questions")
    parser.add_argument("--no-blind", action="store_true", help="do not ask again without the pictures")
    parser.add_argument("--answers", type=Path, help="write all answers to this JSON file")
    parser.add_argument("--sheet", type=Path, default=Path("build/eval/samples.png"), help="write samples to this PNG")
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    arguments = parser.parse_args()
    if not arguments.base_url and not any(arguments.checkpoint.glob("*.safetensors")):
        parser.error(f"{arguments.checkpoint} has no weights; to train them: python -m deploy.demo.train --out DIR")
    setup_logging("eval", "error")
    options = EvaluationOptions(
        items=arguments.items,
        model=arguments.model,
        api_key=arguments.api_key,
        blind=not arguments.no_blind,
        answers=arguments.answers,
        sheet=arguments.sheet,
        check=arguments.check,
    )
    try:
        if arguments.base_url:
            return asyncio.run(evaluate(arguments.base_url, options))
        return asyncio.run(serve_and_evaluate(arguments.checkpoint, arguments.dtype, options))
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
