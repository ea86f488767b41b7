"""The evaluation against a router that knows the truth, or not."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from PIL import Image

from deploy.demo.evaluate import EvaluationError, EvaluationOptions, answer_text, chat_request, evaluate
from deploy.demo.scenes.frozen import frozen_cases
from deploy.demo.sheet import write_sheet

ITEMS = 40
CASES = frozen_cases(ITEMS)
TRUTH = {json.dumps(chat_request("demo", case), sort_keys=True): case.questions[0].answer for case in CASES}


class Router(BaseHTTPRequestHandler):
    """Answers with the truth, or nonsense where no picture came; refuses tools."""

    knows: ClassVar[bool] = True

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "demo"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "tools" in request:
            self._reply(400, {"error": {"message": "tools is not supported"}})
            return
        answer = TRUTH.get(json.dumps(request, sort_keys=True), "?") if self.knows else "?"
        self._reply(200, {"choices": [{"message": {"role": "assistant", "content": answer}}]})

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def router() -> Iterator[str]:
    Router.knows = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Router)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def options(**changes: Any) -> EvaluationOptions:
    return EvaluationOptions(
        **{
            "items": ITEMS,
            "model": None,
            "api_key": None,
            "blind": True,
            "answers": None,
            "sheet": None,
            "check": False,
            **changes,
        }
    )


async def test_results(router: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = await evaluate(f"{router}/v1/", options(sheet=tmp_path / "a" / "s.png", answers=tmp_path / "answers"))
    printed = capsys.readouterr()
    assert status == 1, "tools were refused: that is a failure"
    assert "requests failed; the first one: HTTP 400" in printed.err
    lines = {line.split("|")[1].strip(): line for line in printed.out.splitlines() if line.startswith("|")}
    assert "| 100.0% | 0.0% | 95% |" in lines["count"]
    assert "| 100.0%, IoU 1.00 | 0.0%, IoU 0.00 |" in lines["grounding"]
    assert "| 0.0% | 0.0% |" in lines["tool call"]
    assert len(json.loads((tmp_path / "answers").read_text())) == ITEMS
    with Image.open(tmp_path / "a" / "s.png") as sheet:
        assert sheet.width > 1000


async def test_check_wants_the_targets(router: str) -> None:
    without_tools = next(i for i, case in enumerate(CASES) if case.questions[0].tools)
    assert await evaluate(router, options(items=without_tools, blind=False, check=True)) == 0
    Router.knows = False
    assert await evaluate(router, options(items=without_tools, blind=False, check=False)) == 0
    assert await evaluate(router, options(items=without_tools, blind=False, check=True)) == 1


async def test_no_router() -> None:
    with pytest.raises(EvaluationError, match="no answer from"):
        await evaluate("http://127.0.0.1:9", options())


def test_pictures_travel_as_they_are() -> None:
    pair = next(case for case in CASES if len(case.scenes) == 2)
    parts = chat_request("demo", pair)["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    content = base64.b64decode(parts[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (pair.scenes[0].width, pair.scenes[0].height)
    follow_up = next(case for case in CASES if case.questions[0].kind == "follow-up")
    messages = chat_request("demo", follow_up)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert isinstance(messages[0]["content"], list)
    assert isinstance(chat_request("demo", follow_up, blind=True)["messages"][0]["content"], str)
    clip = next(case for case in CASES if case.questions[0].kind == "motion")
    video, _ = chat_request("demo", clip)["messages"][0]["content"]
    assert (video["type"], len(video["video"]), video["fps"]) == ("video", 4, 2.0)


def test_parsed_answers_are_put_together_again() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": "b"}'}}
    tool = {"content": None, "tool_calls": [call]}
    assert answer_text(tool) == '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>'
    assert answer_text({"content": "7", "reasoning_content": "\nhm\n"}) == "<think>\nhm\n</think>\n\n7"


def test_a_sheet_of_nothing_and_of_nonsense(tmp_path: Path) -> None:
    write_sheet(tmp_path / "empty.png", [], [])
    write_sheet(tmp_path / "odd.png", CASES, ['{"bbox_2d": [900, 900, 100, 100]}'] * len(CASES))
    assert (tmp_path / "odd.png").stat().st_size > 10_000
