"""Signals end processes, so the processes are real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.lifecycle import LIFELINE

ROOT = Path(__file__).parents[3]

SERVICE = """
import asyncio, sys
from common.lifecycle import Shutdown

async def serve():
    with Shutdown() as shutdown:
        shutdown.at_once = lambda: print("at once", flush=True)
        print("ready", flush=True)
        await shutdown.wait()
        print("asked to end:", shutdown.reason, flush=True)
        if sys.argv[1:] == ["drain"]:
            await asyncio.Event().wait()
    return 0

sys.exit(asyncio.run(serve()))
"""


@pytest.fixture
def lifeline() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def service(*argv: str, lifeline: int | None = None) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)} | ({LIFELINE: str(lifeline)} if lifeline is not None else {})
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, *argv],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        pass_fds=() if lifeline is None else (lifeline,),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_end(number: signal.Signals) -> None:
    with service() as process:
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == f"asked to end: {number.name}\n"
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    with service("drain") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked to end: SIGTERM\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "at once\n"
        assert process.returncode == 128 + number


def test_a_server_ends_with_the_process_that_started_it(lifeline: list[int]) -> None:
    with service(lifeline=lifeline[0]) as process:
        os.close(lifeline.pop())  # the write end, which only a living parent holds
        assert process.communicate(timeout=20)[0] == "asked to end: parent process gone\n"
        assert process.returncode == 0


STARTING = """
import asyncio, time
from common.lifecycle import run_server

class Server:
    addresses = {}
    async def start(self):
        print("ready", flush=True)
        await asyncio.to_thread(time.sleep, 600)  # weights, say: nothing can stop this thread

class Config:
    state_file = None
    drain_seconds = 600.0

async def serve():
    await run_server("encode", Server(), asyncio.get_running_loop().create_future(), Config())

asyncio.run(serve())
"""


FAILING = """
import asyncio, logging, threading, time
from concurrent.futures import ThreadPoolExecutor
from common.lifecycle import run_server

logging.basicConfig()
pool = ThreadPoolExecutor(1)

class Server:
    addresses = {}
    async def start(self):
        pool.submit(time.sleep, 600)  # a device that answers no more, say: the interpreter would wait for it
        failure.set_result("the device is gone")
    async def stop(self, drain_seconds):
        print("stopped", flush=True)

class Config:
    state_file = None
    drain_seconds = 600.0

async def serve():
    global failure
    failure = asyncio.get_running_loop().create_future()
    await run_server("encode", Server(), failure, Config())

asyncio.run(serve())
"""


def test_a_server_that_cannot_go_on_ends_although_a_thread_is_stuck() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FAILING]
    process = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert (process.returncode, process.stdout) == (1, "stopped\n")
    assert process.stderr.endswith("can't go on: the device is gone\n")


def test_a_signal_ends_a_server_that_is_still_starting() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
