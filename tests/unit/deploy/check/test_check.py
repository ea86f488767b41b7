"""`epd check` against routers that say what no real one should."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from deploy.check.check import Report, check
from deploy.check.router import Router

URL = "http://router:8000"
ANSWER: dict[str, Any] = {
    "choices": [{"message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 70, "completion_tokens": 3, "prompt_tokens_details": {"image_tokens": 64}},
    "timings": {"vision": 5.0, "transfer": 6.0, "prefill": 2.0, "decode": 3.0},
}
ENCODE = {"role": "encode", "address": "e:1", "ready": True, "trouble": None}
LANGUAGE = {"role": "language", "address": "l:1", "ready": True, "trouble": None, "model": {"vision": True}}


class Scripted:
    """A router: what it answers by path, an exception being raised."""

    def __init__(self, **paths: Any) -> None:
        self.answers: dict[str, Any] = {
            "/ready": {"ready": True, "waiting_for": []},
            "/version": {"version": "0.1.0"},
            "/servers": {"servers": [ENCODE, LANGUAGE]},
            "/v1/chat/completions": ANSWER,
        }
        self.answers |= {
            f"/{path}" if path != "chat" else "/v1/chat/completions": answer for path, answer in paths.items()
        }
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers[request.url.path]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def check(self, headers: dict[str, str] | None = None) -> Report:
        transport = httpx.MockTransport(self)
        with Router(URL, headers or {}, 60.0, transport=transport) as router:
            return check(router, URL, on_servers=lambda report: None, on_trial=lambda trial: None)


def refusal(status: int, message: str, param: str | None = None) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "type": "", "param": param, "code": None}})


def what(report: Report) -> str:
    assert not report.ok
    (finding,) = report.findings
    return f"{finding.where} {finding.what} {finding.advice}"


def test_all_is_well() -> None:
    scripted = Scripted()
    report = scripted.check()
    assert report.ok
    assert (len(report.texts), len(report.pairs)) == (1, 1)
    text, image = scripted.asked[-2:]
    assert text.headers["x-epd-language"] == image.headers["x-epd-language"] == "l:1"
    assert image.headers["x-epd-encode"] == "e:1"
    assert "x-epd-encode" not in text.headers
    assert json.loads(image.content)["return_timings"] is True
    assert text.headers["x-request-id"] != image.headers["x-request-id"]
    assert report.pairs[0].timings["transfer"] == 6.0


def test_no_two_images_are_alike() -> None:
    scripted = Scripted(servers={"servers": [ENCODE, {**ENCODE, "address": "e:2"}, LANGUAGE]})
    scripted.check()
    bodies = [json.loads(request.content) for request in scripted.asked if request.method == "POST"]
    images = [body["messages"][0]["content"][0]["image_url"]["url"] for body in bodies[1:]]
    assert len(set(images)) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "nothing listens there"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "the name can't be resolved"),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "is it http:// there?"),
        (httpx.ConnectTimeout("timed out"), "a firewall"),
        (httpx.ReadTimeout("timed out"), "no answer within 10 s"),
        (httpx.RemoteProtocolError("Server disconnected"), "the connection broke"),
        (httpx.Response(502, text="bad gateway"), "a proxy answers"),
        (httpx.Response(404, text="nothing"), "it has no /ready"),
        (httpx.Response(301, headers={"location": "https://elsewhere"}), "https://elsewhere"),
        (httpx.Response(200, text="<html>"), "not a JSON object"),
        (httpx.Response(200, json={"status": "ok"}), "does not say whether it is ready"),
    ],
)
def test_a_router_that_can_not_be_asked(answer: Any, message: str) -> None:
    assert message in what(Scripted(ready=answer).check())


def test_keys() -> None:
    scripted = Scripted(servers=refusal(401, "an API key is needed"))
    assert "it wants an API key" in what(scripted.check())
    assert "--api-key-file" in what(scripted.check())
    assert "it does not accept this API key" in what(scripted.check({"authorization": "Bearer wrong"}))


def test_an_older_router_has_no_list_of_servers() -> None:
    assert "it has no /servers" in what(Scripted(servers=refusal(404, "there is no /servers")).check())


@pytest.mark.parametrize("listed", [{"servers": None}, {"servers": [1]}, {"servers": [{"role": "encode"}]}, {}])
def test_a_list_that_is_none(listed: Any) -> None:
    assert "is not a list of servers" in what(Scripted(servers=listed).check())


def test_a_router_that_is_not_ready_and_why() -> None:
    gone = {**ENCODE, "ready": False, "trouble": "encode server e:1 could not be reached"}
    waiting = [gone["trouble"], "no encode server is configured"]
    scripted = Scripted(
        ready=httpx.Response(503, json={"ready": False, "waiting_for": waiting}), servers={"servers": [gone, LANGUAGE]}
    )
    report = scripted.check()
    assert [finding.where for finding in report.findings] == ["encode server e:1", "the router"], "each fault once"
    assert "could not be reached" in report.findings[0].what
    assert "no encode server is configured" in report.findings[1].what
    assert len(report.texts) == 1, "what is there is tried all the same"


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (refusal(500, "the model server failed"), "HTTP 500: the model server failed"),
        (httpx.Response(500, text="oops"), "HTTP 500: oops"),
        (httpx.ReadTimeout("timed out"), "no answer within 60 s"),
        (httpx.ReadError("reset"), "the connection broke"),
        (httpx.Response(200, text="hello"), "it is not a chat completion"),
        ({**ANSWER, "choices": []}, "it is not a chat completion"),
        ({key: value for key, value in ANSWER.items() if key != "timings"}, "'timings'"),
        ({**ANSWER, "timings": {"prefill": 1.0}}, "'decode'"),
        ({**ANSWER, "usage": {**ANSWER["usage"], "completion_tokens": 0}}, "the answer has no tokens"),
        ({**ANSWER, "choices": [{"message": {}, "finish_reason": None}]}, "the answer is not finished"),
    ],
)
def test_answers_that_are_none(chat: Any, message: str) -> None:
    text = what(Scripted(chat=chat).check())
    assert message in text
    assert "language server l:1" in text, "which has no answer to the text already"


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ({"timings": {"prefill": 1.0, "decode": 1.0}}, "'vision'"),
        (
            {"usage": {**ANSWER["usage"], "prompt_tokens_details": {"image_tokens": 0}}},
            "the image is not in the prompt",
        ),
    ],
)
def test_answers_that_lack_the_image(lacks: dict[str, Any], message: str) -> None:
    text = what(Scripted(chat={**ANSWER, **lacks}).check())
    assert message in text
    assert "encode server e:1 and language server l:1" in text


def slow_first(times: list[float]) -> Callable[[httpx.Request], Any]:
    """Transfers take as long as told, one after another."""

    def answer(request: httpx.Request) -> Any:
        took = times.pop(0) if "x-epd-encode" in request.headers else 0.0
        return {**ANSWER, "timings": {**ANSWER["timings"], "transfer": took}}

    return answer


def test_a_slow_way_is_a_hint_if_it_stays_slow() -> None:
    servers = {"servers": [ENCODE, {**ENCODE, "address": "e:2"}, LANGUAGE]}
    report = Scripted(servers=servers, chat=slow_first([5.0, 400.0, 300.0])).check()
    assert report.ok, "it works"
    (hint,) = report.hints
    assert "encode server e:2 takes 300 ms" in hint
    once = Scripted(servers=servers, chat=slow_first([5.0, 400.0, 6.0])).check()
    assert once.hints == [], "the first time it had to connect"


def test_a_model_without_vision_has_no_pairs() -> None:
    text_only = {**LANGUAGE, "model": {"vision": False}}
    report = Scripted(servers={"servers": [text_only]}).check()
    assert report.ok
    assert (len(report.texts), report.pairs) == (1, [])
    assert "takes no images" in report.hints[0]


def test_a_router_without_any_server_is_not_well() -> None:
    assert not Scripted(servers={"servers": []}).check().ok


def test_what_others_say_can_not_move_the_cursor() -> None:
    report = Scripted(chat=refusal(500, "\x1b[2J gone\nall gone")).check()
    assert "\x1b" not in what(report)
    assert "\n" not in report.findings[0].what
