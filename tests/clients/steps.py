"""What the Python clients' scripts have in common. Needs nothing but the standard library."""

from __future__ import annotations

import base64
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TOOL_NAME = "get_weather"
TOOL_DESCRIPTION = "Get the weather in a city."
TOOL_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": TOOL_NAME, "description": TOOL_DESCRIPTION, "parameters": TOOL_PARAMETERS},
}

Step = Callable[[SimpleNamespace], None]  # gets a scenario.Scenario with url, key, model and image; fails by raising


def main(*steps: Step) -> int:
    """Runs the steps against the scenario in the file that the command line names; prints a line of JSON for each.

    A line has the step's name, its time in seconds, and an error or null. Returns the process's exit status.
    """
    scenario = SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text()))
    failed = False
    for step in steps:
        begin, error = time.monotonic(), None
        try:
            step(scenario)
        except Exception as caught:  # noqa: BLE001 -- whatever a client makes of an answer is to be told
            traceback.print_exc()
            error = f"{type(caught).__name__}: {caught}"
            failed = True
        seconds = time.monotonic() - begin
        print(json.dumps({"step": step.__name__, "seconds": seconds, "error": error}), flush=True)
    return int(failed)


def image_base64(scenario: SimpleNamespace) -> str:
    return base64.b64encode(Path(scenario.image).read_bytes()).decode()


def question_with_image(scenario: SimpleNamespace, question: str) -> list[dict[str, Any]]:
    """The messages of OpenAI's chat API."""
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image_base64(scenario)}"}},
        {"type": "text", "text": question},
    ]
    return [{"role": "user", "content": parts}]


def check(what: str, got: Any, expected: Any) -> None:
    """Raises AssertionError if they differ; anything will do where None is expected."""
    if expected is not None and got != expected:
        raise AssertionError(f"{what} is {got!r} instead of {expected!r}")


def check_box(scenario: SimpleNamespace, got: list[int]) -> None:
    close = len(got) == 4 and all(abs(a - b) <= scenario.box_within for a, b in zip(got, scenario.box, strict=True))
    check("the box", got, got if close else scenario.box)


def check_stream(scenario: SimpleNamespace, pieces: list[str]) -> None:
    check("the streamed text", "".join(pieces), scenario.recital)
    if len(pieces) < 3:
        raise AssertionError(f"the stream came in {len(pieces)} pieces")
