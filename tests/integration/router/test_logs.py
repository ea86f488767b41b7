"""The router's log: one line a request with what it took, and few lines about many requests that fail alike."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from common.errors import OverloadedError, UnavailableError
from router.answer.chat import ChatShape
from tests.integration.router.system import CONFIG, Router, says, system
from tests.integration.router.test_media import image, text


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


async def ends(router: Router, caplog: pytest.LogCaptureFixture, count: int = 1) -> list[Any]:
    """The lines about requests, once `count` have ended; that is after their answers were sent."""

    def found() -> list[logging.LogRecord]:
        return [record for record in caplog.records if hasattr(record, "outcome")]

    await router.until(lambda: len(found()) == count)
    return found()


async def test_a_request_is_one_line_with_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("A cat.")) as (router, _, _):
        response = await router.chat([text("What is"), image(b"cat")], max_tokens=9)
        (line,) = await ends(router, caplog)
    assert (line.name, line.levelname, line.getMessage()) == ("router.http.exchange", "INFO", "chat completion")
    assert line.request_id == response.headers["x-request-id"]
    assert (line.outcome, line.status) == ("finished", 200)
    assert line.output_tokens == response.json()["usage"]["completion_tokens"]
    assert {"body", "parse", "template", "fetch", "hash", "size", "tokenize", "vision", "transfer", "prefill"} <= set(
        line.stages_ms
    )
    assert line.stages_ms["vision"] == 5
    assert not hasattr(line, "error")


async def test_what_a_client_did_wrong_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("ok")) as (router, _, _):
        assert (await router.chat("hi", model="secret-model")).status_code == 404
        (line,) = await ends(router, caplog)
    assert (line.outcome, line.status, line.code) == ("failed", 404, "model_not_found")
    assert not any("secret" in repr(vars(record)) for record in caplog.records)


async def test_who_guesses_keys_is_seen_and_the_key_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("ok"), config=replace(CONFIG, api_key=("right",))) as (router, _, _):
        client, guess = router.client, {"authorization": "Bearer secret-guess"}
        for path in ("/v1/models", "/servers", "/v1/responses/r1", "/v1/models/demo"):
            assert (await client.get(path, headers={**guess, "x-request-id": "first"})).status_code == 401
        assert (await client.post("/v1/chat/completions", json={}, headers=guess)).status_code == 401
        await ends(router, caplog)
        assert router.metric("epd_requests_failed_total", status="401") == 5
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage() == "401 the API key is not valid"
    assert (line.request_id, line.client) == ("first", "127.0.0.1")  # type: ignore[attr-defined]
    assert not any("secret-guess" in repr(vars(record)) for record in caplog.records)


async def test_what_comes_to_no_endpoint_of_the_api_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("ok")) as (router, _, _):
        for path in ("/v1/nothing", "/v1/models/other", "/v1/responses/r1", "/v1", "/favicon.ico", "/v1x"):
            assert (await router.client.get(path)).status_code == 404, path
        assert (await router.client.get("/v1/chat/completions")).status_code == 405
        assert (await router.client.get("/v1/models", headers={"x": "y" * 70_000})).status_code == 431
        counted = {
            status: router.metric("epd_requests_failed_total", status=status) for status in ("404", "405", "431")
        }
    assert counted == {"404": 4, "405": 1, "431": 1}


async def test_a_flood_of_refusals_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("ok")) as (router, (language,), _):
        language.refusal = OverloadedError("the queue is full")
        statuses = {(await router.chat("hi")).status_code for _ in range(20)}
        lines = await ends(router, caplog, 20)
    assert statuses == {429}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["429 the queue is full"]
    assert {(line.code, line.error) for line in lines} == {("overloaded", "the queue is full")}


async def test_a_flood_of_failing_encodes_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with system(says("ok")) as (router, _, (encode,)):
        encode.refusal = UnavailableError("the device is gone")
        for number in range(5):
            assert (await router.chat([image(b"%d" % number)])).status_code == 503
        await ends(router, caplog, 5)
    told = [record for record in caplog.records if "the device is gone" in record.getMessage()]
    assert len(told) == 1
    assert told[0].request_id  # type: ignore[attr-defined]


async def test_a_server_that_comes_and_goes_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Each request finds that it can't be reached, and the look after it that all is well."""
    async with system(says("ok")) as (router, _, (encode,)):
        encode.breaks_off = True
        for number in range(4):
            assert (await router.chat([image(b"%d" % number)])).status_code == 503
            await router.until(lambda: router.services.fleet.readiness().image)
    lines = [record.getMessage() for record in caplog.records if record.name == "router.fleet.servers"]
    lost = [line for line in lines if line.endswith("could not be reached")]
    assert len(encode.opened) > 4
    assert len(lost) == 1, lines
    assert lines.count(f"encode server {encode.address} is ready") == 2, "at first, and after the line that was shown"


async def test_a_fault_of_ours_says_where_and_not_what(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("what the client said")

    monkeypatch.setattr(ChatShape, "whole", broken)
    async with system(says("ok")) as (router, _, _):
        assert (await router.chat("hi")).status_code == 500
        (line,) = await ends(router, caplog)
    assert line.error.startswith("KeyError at router/test_logs.py:")
    assert "answer/answer.py" in line.error
    assert not any("what the client said" in repr(vars(record)) for record in caplog.records)


async def test_offers_to_speak_another_protocol_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn says about them goes through the same limit in a real process (`common.logs.setup_logging`)."""
    async with system(says("ok")) as (router, _, _):
        headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        await router.client.get("/health", headers=headers)
    names = {record.name for record in caplog.records if record.levelno >= logging.WARNING}
    assert names <= {"uvicorn.error"}
