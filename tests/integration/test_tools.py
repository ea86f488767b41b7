"""`epd check` and `epd top` as their users run them, against fakes behind a real router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from common.state import ProcessState, read_state
from deploy.check.image import fresh_data_uri
from deploy.programs import demo_folder
from deploy.tools import TOOLS
from tests.integration.fakes.conftest import EncodeServers, LanguageServers, encode_server, language_server  # noqa: F401
from tests.integration.router.system import CONFIG, Router, routing
from tests.integration.test_cli import BASE_INSTALL, ROOT, TIMEOUT, environ
from tests.serving import serving

KEY = "sesame"


class System:
    """Two fakes of each role and a router, as `epd serve` starts them."""

    def __init__(self, url: str, state_file: Path, env: dict[str, str]) -> None:
        self.url = url
        self.state_file = state_file
        self.env = env
        self.states = read_state(state_file)

    def of(self, role: str) -> list[ProcessState]:
        return [state for state in self.states if state.role == role]

    def epd(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """On a machine that has neither torch nor anything else of the extras."""
        command = [sys.executable, "-m", "deploy.cli", *argv]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    def ask(self, content: object, **pins: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {KEY}", **{f"x-epd-{role}": address for role, address in pins.items()}}
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 5}
        return httpx.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=TIMEOUT, trust_env=False
        )

    def counts(self, role: str, name: str) -> dict[str, float]:
        """A counter of each server of a role, by gRPC address."""
        found = {}
        for state in self.of(role):
            text = httpx.get(f"http://{state.addresses['metrics']}/metrics", timeout=TIMEOUT, trust_env=False).text
            values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.M)
            found[state.addresses["grpc"]] = sum(map(float, values))
        return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "sitecustomize.py").write_text(BASE_INSTALL)
    env = environ(PYTHONPATH=os.pathsep.join((str(folder), str(ROOT))))
    state_file = folder / "state.json"
    argv = ["--fake", "--encoders", "2", "--languages", "2", "--api-key", KEY]
    with serving(demo_folder() / "model", state_file, *argv) as served:
        yield System(served.url, state_file, env)


def test_check_tries_every_pair(system: System) -> None:
    done = system.epd("check", system.url, "--api-key", KEY, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["problems"] == []
    addresses = {role: {state.addresses["grpc"] for state in system.of(role)} for role in ("encode", "language")}
    pairs = {(pair["encode"], pair["language"]) for pair in report["pairs"]}
    assert pairs == {(encode, language) for encode in addresses["encode"] for language in addresses["language"]}
    assert {text["language"] for text in report["texts"]} == addresses["language"]
    for pair in report["pairs"]:
        assert pair["timings"]["transfer"] > 0, "each image went over the wire"


def test_check_for_eyes(system: System) -> None:
    done = system.epd("check", system.url, "--api-key", KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("image ") for line in lines) >= 4
    assert sum(line.startswith("text ") for line in lines) == 2
    assert "transfer" in done.stdout
    assert "all is well: 4 pairs" in lines[-1]


def test_check_without_the_key(system: System) -> None:
    done = system.epd("check", system.url)
    assert done.returncode == 1
    assert "it wants an API key" in done.stdout


def test_a_router_that_is_not_there(system: System) -> None:
    done = system.epd("check", "http://127.0.0.1:9", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert "nothing listens there" in report["problems"][0]["what"]


def test_wrong_usage_is_one_line_and_status_2(system: System) -> None:
    for argv in (["check"], ["check", system.url, "--jso"], ["top"], ["top", system.url, "--onc"]):
        done = system.epd(*argv)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(f"epd {argv[0]}: ")


def test_pinned_requests_go_where_they_are_sent(system: System) -> None:
    """As the servers themselves count."""
    for encode in (state.addresses["grpc"] for state in system.of("encode")):
        for language in (state.addresses["grpc"] for state in system.of("language")):
            items = system.counts("encode", "epd_encode_items_total")
            received = system.counts("language", "epd_transfer_bytes_total")
            content = [{"type": "image_url", "image_url": {"url": fresh_data_uri()}}]
            assert system.ask(content, encode=encode, language=language).status_code == 200
            after = system.counts("encode", "epd_encode_items_total")
            assert {address for address in after if after[address] > items[address]} == {encode}
            got = system.counts("language", "epd_transfer_bytes_total")
            assert {address for address in got if got[address] > received[address]} == {language}
    assert system.ask("hi", encode="127.0.0.1:1").status_code == 400


def rates_of(text: str, title: str) -> list[dict[str, str]]:
    """The rows of a table of `epd top`, by column. Columns are right-aligned and two spaces or more apart."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{title}  "))
    names = re.split(r" {2,}", lines[start])
    rows = []
    for line in lines[start + 1 :]:
        if not line:
            break
        rows.append(dict(zip(names, re.split(r" {2,}", line), strict=False)))
    return rows


def test_top_shows_what_goes_on(system: System) -> None:
    ended = threading.Event()

    def traffic() -> None:
        while not ended.is_set():
            system.ask([{"type": "image_url", "image_url": {"url": fresh_data_uri()}}])

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        done = system.epd(
            *("top", "--state-file", str(system.state_file), "--metrics", "127.0.0.1:9"),
            *("--interval", "2", "--api-key", KEY, "--once"),
        )
    finally:
        ended.set()
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    assert "\x1b" not in text
    (router,) = rates_of(text, "routers")
    assert router["ready"] == "yes"
    assert float(router["requests/s"]) > 0
    assert float(router["output/s"].replace(",", "")) > 0
    encoders = rates_of(text, "encode servers")
    assert {row["encode servers"] for row in encoders} == {state.addresses["grpc"] for state in system.of("encode")}
    assert sum(float(row["images/s"]) for row in encoders) > 0
    assert any(row["sent/s"] != "0 B" for row in encoders)
    assert len(rates_of(text, "language servers")) == 2
    assert "127.0.0.1:9  no answer: connection refused" in text
    assert any(line.startswith("encode: transfer") for line in text.splitlines())
    listed = rates_of(text, "servers, as the router sees them")
    assert len(listed) == 4
    assert re.search(r"^nothing +0 +0$", text, flags=re.M), "nothing was lost"


def test_top_in_a_terminal(system: System) -> None:
    """It draws again and again, what matters most at the top of a window that is too small, until Ctrl-C."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (20, 120))
    command = [sys.executable, "-m", "deploy.cli", "top", "--state-file", str(system.state_file), "--interval", "0.2"]
    env = {**system.env, "TERM": "xterm"}
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"servers, as the router sees them") < 3:
            shown += os.read(ours, 1 << 16)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # what a terminal says when its program has ended
            while data := os.read(ours, 1 << 16):
                shown += data
        assert process.wait(TIMEOUT) == 0
    os.close(ours)
    assert b"nothing" in shown, "is lost"
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1, "the screen is given back"
    assert b"Traceback" not in shown


def test_top_of_a_router_without_its_key(system: System) -> None:
    done = system.epd("top", system.url, "--interval", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an API key is needed" in done.stdout
    assert rates_of(done.stdout, "routers")[0]["ready"] == "yes"


def test_top_where_nothing_answers(system: System) -> None:
    done = system.epd("top", "http://127.0.0.1:9", "--interval", "0.1")
    assert done.returncode == 1
    assert "127.0.0.1:9  no answer: connection refused" in done.stdout


# -- faults, with servers that the test holds --------------------------------------------------------------------------


async def check(router: Router, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and the output."""
    status = await asyncio.to_thread(TOOLS["check"].run, [router.address, "--timeout", "20"])
    return status, capsys.readouterr().out


async def test_an_encoder_that_fails_is_named(
    encode_server: EncodeServers,  # noqa: F811
    language_server: LanguageServers,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with (
        encode_server() as good,
        encode_server(fail_rate=1.0) as bad,
        language_server() as first,
        language_server() as second,
    ):
        config = replace(
            CONFIG,
            encode=tuple(server.addresses["grpc"] for server in (good, bad)),
            language=tuple(server.addresses["grpc"] for server in (first, second)),
        )
        async with routing(config) as router:
            fleet = router.services.fleet
            await router.until(lambda: len(fleet.encode.ready()) == len(fleet.language.ready()) == 2)
            status, output = await check(router, capsys)
            assert status == 1
            assert f"* encode server {bad.addresses['grpc']} fails with every language server: HTTP 500" in output
            assert output.count("FAILED") == 2
            assert "1 problem:" in output

            await bad.stop(0.0)
            await router.until(lambda: len(fleet.encode.ready()) == 1)
            status, output = await check(router, capsys)
            assert status == 1
            assert f"* encode server {bad.addresses['grpc']} is not ready: " in output
            assert output.count("FAILED") == 0
            assert "1 problem:" in output


async def test_a_data_port_that_can_not_be_reached_is_named(
    encode_server: EncodeServers,  # noqa: F811
    language_server: LanguageServers,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Texts go through, and images to the other one."""
    async with (
        encode_server(receipt_seconds=0.5) as encode,
        language_server() as good,
        language_server(data_advertise="127.0.0.1:9") as bad,
    ):
        config = replace(
            CONFIG,
            encode=(encode.addresses["grpc"],),
            language=tuple(server.addresses["grpc"] for server in (good, bad)),
        )
        async with routing(config) as router:
            fleet = router.services.fleet
            await router.until(lambda: bool(fleet.encode.ready()) and len(fleet.language.ready()) == 2)
            status, output = await check(router, capsys)
    assert status == 1
    pair = f"encode server {encode.addresses['grpc']} and language server {bad.addresses['grpc']}"
    assert f"* {pair} fail together: " in output
    assert "--data-advertise" in output
    assert output.count("FAILED") == 1
