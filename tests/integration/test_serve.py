"""`epd serve` with weights: separate processes and one process give the same answer, each over its own transport."""

import base64
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from common.state import read_state
from deploy.demo.random_weights import write_checkpoint
from deploy.programs import demo_folder

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds; reached only when something is broken


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "demo"
    write_checkpoint(directory)
    return directory


def question() -> dict[str, object]:
    image = base64.b64encode((demo_folder() / "images" / "stripes.png").read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": "What is this?"},
    ]
    messages = [{"role": "user", "content": parts}]
    return {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 12, "ignore_eos": True}


def serve_and_ask(checkpoint: Path, state_file: Path, *argv: str) -> tuple[str, dict[str, float]]:
    """The answer, and the embedding bytes that the language server took by transport."""
    command = [sys.executable, "-m", "deploy.cli", "serve", "--model", str(checkpoint), "--dtype", "float32"]
    command += ["--port", "0", "--state-file", str(state_file), "--kv-cache-bytes", "16MiB", *argv]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if "ready: http://" in line:
                    break
            else:
                pytest.fail("".join(lines))
            addresses = {state.role: state.addresses for state in read_state(state_file)}
            answer = httpx.post(
                f"http://{addresses['router']['http']}/v1/chat/completions", json=question(), timeout=TIMEOUT
            )
            assert answer.status_code == 200, answer.text
            metrics = httpx.get(f"http://{addresses['language']['metrics']}/metrics").text
            process.send_signal(signal.SIGTERM)
            log = process.communicate(timeout=TIMEOUT)[1]
            assert process.returncode == 0, log
        finally:
            process.kill()
    taken = re.findall(r'^epd_transfer_bytes_total\{transport="(\w+)"\} (\S+)$', metrics, flags=re.M)
    return answer.json()["choices"][0]["message"]["content"], {name: float(count) for name, count in taken}


def test_separate_processes_and_one_process_answer_alike(checkpoint: Path, tmp_path: Path) -> None:
    answers = {}
    for transport, argv in {
        "zmq": ["--transport", "zmq"],
        "grpc": ["--transport", "grpc"],
        "local": ["--colocated"],
    }.items():
        answers[transport], taken = serve_and_ask(checkpoint, tmp_path / f"{transport}.json", *argv)
        used = {name for name, count in taken.items() if count > 0}
        assert used == {transport}
    assert answers["zmq"]
    assert answers["zmq"] == answers["grpc"] == answers["local"]
