"""CPU time of the router for each token that it streams, beside the floor: a bare uvicorn that sends the same events.

    python -m tests.bench.router_cost [--streams 64] [--rate 40] [--tokens 400] [--workers 1] [--repeat 3]

Both serve the same number of streams at the same rate to the same client, in turns; only CPU seconds of the serving
processes count, so that a busy machine disturbs little. With --profile the router runs under cProfile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from common.state import read_state

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "deploy" / "demo" / "model"
START_S = 60.0


@contextmanager
def process(state_file: Path, key: str, *command: str) -> Iterator[tuple[psutil.Process, str]]:
    """Starts a server that writes a state file; gives the process and its address `key`."""
    with subprocess.Popen([sys.executable, *command, "--state-file", str(state_file)], cwd=ROOT) as child:
        try:
            begin = time.monotonic()
            while not (states := read_state(state_file)):
                if child.poll() is not None or time.monotonic() - begin > START_S:
                    raise RuntimeError(f"{command} does not start")
                time.sleep(0.05)
            yield psutil.Process(child.pid), states[0].addresses[key]
            child.send_signal(signal.SIGTERM)
            child.wait(START_S)
        finally:
            child.kill()


async def stream(address: str, body: bytes) -> int:
    """Sends a request and reads its answer to the end; the number of its events."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    events, tail = 0, b""
    while data := await reader.read(1 << 16):
        events += data.count(b"data: {")
        tail = (tail + data)[-64:]
    writer.close()
    assert b"[DONE]" in tail, tail
    return events


async def load(address: str, streams: int, body: bytes) -> int:
    return sum(await asyncio.gather(*(stream(address, body) for _ in range(streams))))


def measure(name: str, server: psutil.Process, address: str, streams: int, body: bytes) -> float:
    """CPU microseconds of `server`, and of the processes that it started, for each event of all streams."""
    asyncio.run(load(address, 2, body))  # warm
    processes = [server, *server.children(recursive=True)]
    before, begin = [_cpu_seconds(process) for process in processes], time.monotonic()
    events = asyncio.run(load(address, streams, body))
    seconds = time.monotonic() - begin
    used = [_cpu_seconds(process) - at for process, at in zip(processes, before, strict=True)]
    micros = sum(used) / events * 1e6
    shares = " + ".join(f"{one:.2f}" for one in used if one >= 0.01)
    print(f"{name:8} {events} events in {seconds:.1f} s, {shares} CPU seconds: {micros:.0f} us each", flush=True)
    return micros


def _cpu_seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def floor(arguments: argparse.Namespace) -> None:
    """The bare server, in a process of its own: one clock for all streams, as one engine step is."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from common.state import write_state

    delta = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
    head = {"id": "chatcmpl-" + 32 * "0", "created": 1700000000, "model": "demo", "object": "chat.completion.chunk"}
    event = b"data: " + json.dumps({**head, "choices": [delta]}).encode() + b"\n\n"
    waiting: set[asyncio.Queue[None]] = set()

    async def tick() -> None:
        while True:
            await asyncio.sleep(1 / arguments.rate)
            for queue in waiting:
                queue.put_nowait(None)

    async def answer(request: object) -> StreamingResponse:
        async def events():  # type: ignore[no-untyped-def]
            queue: asyncio.Queue[None] = asyncio.Queue()
            waiting.add(queue)
            for _ in range(arguments.tokens):
                await queue.get()
                yield event
            waiting.discard(queue)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def serve() -> None:
        app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        ticking = asyncio.create_task(tick())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        write_state(arguments.state_file, "floor", {"http": f"127.0.0.1:{port}"})
        await serving
        ticking.cancel()

    asyncio.run(serve())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rate", type=float, default=40.0, help="tokens a second of each stream")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1, help="processes of the router")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each")
    parser.add_argument("--profile", type=Path, help="write the router's profile there")
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--state-file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.floor:
        floor(arguments)
        return
    messages = [{"role": "user", "content": "Tell me something."}]
    body = json.dumps({"messages": messages, "stream": True, "max_tokens": arguments.tokens}).encode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "script.json"
        rule = {"answer": " and" * arguments.tokens, "tokens_per_second": arguments.rate}
        script.write_text(json.dumps([rule]))
        common = ["--log-level", "warning"]
        language = ["-m", "deploy.cli", "language", "--fake", "--model", str(MODEL), "--script", str(script), *common]
        language += ["--listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        profiler = ["-m", "cProfile", "-o", str(arguments.profile)] if arguments.profile else []
        with process(folder / "language", "grpc", *language) as (_, address):
            router = [*profiler, "-m", "deploy.cli", "router", "--language", address, "--port", "0", *common]
            router += ["--workers", str(arguments.workers)]
            bare = [__file__, "--floor", "--rate", str(arguments.rate), "--tokens", str(arguments.tokens)]
            with (
                process(folder / "router", "http", *router) as (ours, our_address),
                process(folder / "floor", "http", *bare) as (least, least_address),
            ):
                time.sleep(2.0)  # the first language server has to be found
                ratios = [
                    measure("router", ours, our_address, arguments.streams, body)
                    / measure("floor", least, least_address, arguments.streams, body)
                    for _ in range(arguments.repeat)
                ]
    print(f"the router takes {median(ratios):.2f} times the floor (median), on {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
