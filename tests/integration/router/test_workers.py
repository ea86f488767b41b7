"""A router of several processes: one address, one set of metrics, one memory for names, an end that drops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from common.state import read_state
from router.listening import listen, listen_together
from tests.integration.router.peers import EncodePeer, LanguagePeer, running
from tests.integration.router.system import body_of, events_of, says
from tests.integration.router.test_media import image

ROOT = Path(__file__).parents[3]
WORKERS = 3


@dataclass
class Running:
    process: asyncio.subprocess.Process
    url: str
    log: Path

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def post(self, content: object, **fields: object) -> httpx.Response:
        """Over a connection of its own, so that any worker may get it."""
        async with httpx.AsyncClient(base_url=self.url, timeout=20.0) as client:
            return await client.post("/v1/chat/completions", json=body_of(content, **fields))

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20.0) as client:
            return await client.get(path)

    async def metric(self, name: str) -> float:
        lines = (await self.get("/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.partition(" ")[0] == name)

    async def counted(self, name: str, value: float) -> None:
        """Waits for a metric: an exchange is counted when it ends, which is after its answer has been sent."""
        async with asyncio.timeout(30):
            while await self.metric(name) != value:
                await asyncio.sleep(0.02)

    async def all_ready(self, sessions: LanguagePeer, count: int = WORKERS) -> None:
        """Each worker has a session of its own with the language server."""
        async with asyncio.timeout(30):
            while len(sessions.sessions) < count:
                await asyncio.sleep(0.02)
            while not all([(await self.get("/ready")).status_code == 200 for _ in range(8 * count)]):
                await asyncio.sleep(0.02)


class CountingPeer(LanguagePeer):
    """Knows the routers that are connected to it."""

    def __init__(self, text: str) -> None:
        super().__init__(says(text))
        self.sessions: set[object] = set()

    async def Session(self, commands, context):  # type: ignore[no-untyped-def]
        self.sessions.add(context)
        try:
            async for event in super().Session(commands, context):
                yield event
        finally:
            self.sessions.discard(context)


@contextlib.asynccontextmanager
async def router(folder: Path, *argv: str, workers: int = WORKERS) -> AsyncIterator[Running]:
    state, log = folder / "state.json", folder / "log"
    command = [sys.executable, "-m", "deploy.cli", "router", "--port", "0", "--workers", str(workers)]
    command += ["--health-interval-seconds", "0.05", "--served-model-name", "demo", "--state-file", str(state), *argv]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=output, stdout=output)
    try:
        async with asyncio.timeout(60):
            while not (states := read_state(state)):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        (shown,) = states
        assert (shown.role, shown.pid) == ("router", process.pid)
        yield Running(process, f"http://{shown.addresses['http']}", log)
    finally:
        children = psutil.Process(process.pid).children() if process.returncode is None else []
        if process.returncode is None:
            process.kill()
            await process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "workers outlive their supervisor"


@contextlib.asynccontextmanager
async def peers(text: str) -> AsyncIterator[tuple[CountingPeer, list[str]]]:
    language = CountingPeer(text)
    encode = EncodePeer(language.deliver)
    async with running(language, encode):
        yield language, ["--language", language.address, "--encode", encode.address]


async def test_one_router_of_many(tmp_path: Path) -> None:
    """Requests, metrics, names of media; and a worker that dies."""
    async with peers("ok") as (language, argv), router(tmp_path, *argv) as served:
        await served.all_ready(language)
        assert len(served.workers()) == WORKERS
        before = [worker.cpu_times().user for worker in served.workers()]
        responses = await asyncio.gather(*(served.post("hi") for _ in range(60)))
        assert {response.status_code for response in responses} == {200}
        after = [worker.cpu_times().user for worker in served.workers()]
        assert all(late > early for early, late in zip(before, after, strict=True)), "all of them work"
        await served.counted("epd_requests_finished_total", 60)
        await served.counted("epd_requests_running", 0)
        assert "_created" not in (await served.get("/metrics")).text, "which one process alone has: docs/metrics.md"

        assert (await served.post([{**image(b"cat"), "uuid": "cat"}])).status_code == 200
        for _ in range(12):
            # a worker that has not seen the image asks the encode server for its size
            response = await served.post([{"type": "image_url", "image_url": None, "uuid": "cat"}])
            assert response.status_code == 200, response.text

        await served.counted("epd_requests_finished_total", 73)
        await served.counted('epd_cache_hits_total{cache="alias"}', 12)
        assert await served.metric('epd_cache_entries{cache="alias"}') == 1, "what workers share is not added up"
        assert await served.metric('epd_cache_bytes{cache="alias"}') >= 4096
        victim = served.workers()[0]
        victim.kill()
        async with asyncio.timeout(30):
            while len(language.sessions) == WORKERS:
                await asyncio.sleep(0.01)
        await served.all_ready(language)
        assert victim.pid not in {worker.pid for worker in served.workers()}
        responses = await asyncio.gather(*(served.post("hi") for _ in range(20)))
        assert {response.status_code for response in responses} == {200}
        await served.counted("epd_requests_finished_total", 93)  # also what a dead worker counted
        assert "status -9" in served.log.read_text()


@pytest.mark.parametrize("everybody", [False, True])
async def test_sigterm_lets_requests_finish(tmp_path: Path, everybody: bool) -> None:
    """To the supervisor alone, or, as systemd does it, to all processes at once."""
    async with peers("one two three") as (language, argv), router(tmp_path, *argv) as served:
        await served.all_ready(language)
        language.pace = asyncio.Semaphore(0)
        asking = [asyncio.create_task(served.post("hi", stream=True)) for _ in range(8)]
        await language.request(8)
        for process in served.workers() if everybody else []:
            process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while await _answers(served.url):
                await asyncio.sleep(0.02)
        assert served.process.returncode is None
        for _ in range(200):
            language.pace.release()
        for answer in await asyncio.wait_for(asyncio.gather(*asking), 20):
            assert events_of(answer.text)[-1] == "[DONE]"
        assert await asyncio.wait_for(served.process.wait(), 20) == 0, served.log.read_text()


async def _answers(url: str) -> bool:
    """Whether new requests are taken."""
    async with httpx.AsyncClient(base_url=url, timeout=20.0) as client:
        try:
            return (await client.get("/ready")).status_code == 200
        except httpx.TransportError:
            return False


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with peers("one two three") as (language, argv), router(tmp_path, *argv) as served:
        await served.all_ready(language)
        language.pace = asyncio.Semaphore(0)
        asking = asyncio.create_task(served.post("hi"))
        await language.request()
        workers = served.workers()
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while "shutting down" not in served.log.read_text():
                await asyncio.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(served.process.wait(), 20) == 128 + signal.SIGTERM
        assert not psutil.wait_procs(workers, timeout=20)[1]
        with pytest.raises(httpx.TransportError):
            await asking


async def test_workers_that_can_not_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.cli", "router", "--port", "0", "--workers", "2"),
        *("--api-key-file", str(tmp_path / "missing")),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"--api-key-file: can't read" in log


def test_a_port_that_is_taken() -> None:
    with listen_together("127.0.0.1", 0, 2) as sockets:
        host, port = sockets[0].getsockname()
        assert {one.getsockname() for one in sockets} == {(host, port)}
        with pytest.raises(OSError, match="in use"):
            listen(host, port)
        with pytest.raises(OSError, match="in use"), listen_together(host, port, 2):
            pass
    with socket.create_server((host, 0)) as taken, pytest.raises(OSError, match="in use"):
        listen_together(host, taken.getsockname()[1], 2).__enter__()
