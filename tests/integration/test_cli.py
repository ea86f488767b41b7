"""`epd` as its users run it: real processes, real signals, the fakes instead of weights."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from common.state import ProcessState, read_state
from deploy.programs import demo_folder

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds; reached only when something is broken

# Put into every process by the interpreter: what a machine with the base install does not have.
BASE_INSTALL = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "numpy", "PIL", "av", "safetensors", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which neither torch nor anything else of the extras can be imported."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "sitecustomize.py").write_text(BASE_INSTALL)
    return environ(PYTHONPATH=os.pathsep.join((str(folder), str(ROOT))))


def environ(**more: str) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("EPD_")}
    return clean | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | more


def epd(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *argv]
    return subprocess.run(command, env=env or environ(), capture_output=True, text=True, timeout=TIMEOUT, check=False)


@dataclass(frozen=True, kw_only=True)
class Running:
    process: subprocess.Popen[str]
    states: tuple[ProcessState, ...]

    @property
    def url(self) -> str:
        return f"http://{self.of('router').addresses['http']}"

    def of(self, role: str) -> ProcessState:
        return next(state for state in self.states if state.role == role)

    def end(self) -> tuple[int, str]:
        """Waits for the end of it and of all its processes; exit status and the last line of the log."""
        log = self.process.communicate(timeout=TIMEOUT)[1]
        _, alive = psutil.wait_procs(
            [psutil.Process(state.pid) for state in self.states if psutil.pid_exists(state.pid)], TIMEOUT
        )
        assert not alive, f"left over: {alive}"
        return self.process.returncode, log.strip().splitlines()[-1]


@contextmanager
def serving(argv: Sequence[str], state_file: Path, env: Mapping[str, str]) -> Iterator[Running]:
    """`epd serve`, once it says that it is ready."""
    command = [sys.executable, "-m", "deploy.cli", "serve", "--port", "0", "--state-file", str(state_file), *argv]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready: http://" in line:
                break
        else:
            pytest.fail(f"epd serve ended:\n{''.join(lines)}")
        yield Running(process=process, states=read_state(state_file))
    finally:
        process.kill()
        process.communicate()


def question(image: Path) -> dict[str, object]:
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    return {"model": "demo", "messages": [{"role": "user", "content": parts}], "stream": True}


def test_serve_answers_a_question_about_an_image_and_ends_clean(tmp_path: Path, base_install: dict[str, str]) -> None:
    fakes = ["--fake", "--served-model-name", "demo", "--encoders", "2"]
    with serving(fakes, tmp_path / "state.json", base_install) as running:
        assert [state.role for state in running.states] == ["serve", "encode", "encode", "language", "router"]
        assert running.of("serve").pid == running.process.pid
        assert httpx.get(f"{running.url}/ready").status_code == 200
        image = demo_folder() / "images" / "stripes.png"
        with httpx.stream(
            "POST", f"{running.url}/v1/chat/completions", json=question(image), timeout=TIMEOUT
        ) as answer:
            assert answer.status_code == 200
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices)
        assert choices[-1]["finish_reason"] == "stop"
        running.process.send_signal(signal.SIGTERM)
        status, _ = running.end()
        assert status == 0


@pytest.mark.parametrize("role", ["encode", "language", "router"])
def test_a_dead_process_ends_all_and_the_last_line_says_which(
    tmp_path: Path, base_install: dict[str, str], role: str
) -> None:
    with serving(["--fake"], tmp_path / "state.json", base_install) as running:
        os.kill(running.of(role).pid, signal.SIGKILL)
        status, last_line = running.end()
        assert status == 1
        name = "router" if role == "router" else f"{role} server"
        assert f"the {name} (process {running.of(role).pid}) was ended by SIGKILL" in last_line


def test_servers_do_not_outlive_a_killed_parent(tmp_path: Path, base_install: dict[str, str]) -> None:
    with serving(["--fake"], tmp_path / "state.json", base_install) as running:
        running.process.kill()
        status, _ = running.end()
        assert status == -signal.SIGKILL


def test_the_demo_runs_on_the_fakes() -> None:
    command = [sys.executable, "-m", "deploy.demo.run", "--once", "--fake"]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert "time in ms:" in done.stdout


@pytest.mark.parametrize(("role", "extra"), [("encode", "encode"), ("language", "language")])
def test_a_role_without_its_extra_says_which_to_install(base_install: dict[str, str], role: str, extra: str) -> None:
    done = epd(role, "--model", "anything", env=base_install)
    assert done.returncode == 2
    assert f"pip install 'epd-serve[{extra}]'" in done.stderr
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_without_the_extras_says_which_to_install(base_install: dict[str, str]) -> None:
    done = epd("serve", "--model", "anything", env=base_install)
    assert done.returncode == 2
    assert "pip install 'epd-serve[encode]'" in done.stderr


@pytest.mark.parametrize("role", ["serve", "encode", "language", "router"])
def test_help_needs_no_extra(base_install: dict[str, str], role: str) -> None:
    done = epd(role, "--help", env=base_install)
    assert done.returncode == 0
    assert f"usage: epd {role}" in done.stdout
    assert "--log-level" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ruter"], "no role or tool 'ruter'; did you mean router?"),
        (["router", "--prot", "1"], "epd router: unknown option --prot; did you mean --port?"),
        (["serve"], "epd serve: --model is required"),
        (["encode", "--fake", "--fail-rate", "2"], "epd encode: --fail-rate is a share of 1"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(argv: list[str], message: str) -> None:
    done = epd(*argv)
    assert done.returncode == 2
    assert done.stderr.startswith(message) or message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = epd("encode", "--fake", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "can't listen on 127.0.0.1:" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_a_role_the_roles_are_listed() -> None:
    done = epd()
    assert done.returncode == 0
    for role in ("serve", "encode", "language", "router"):
        assert f"\n  {role} " in done.stdout
    assert epd("--version").stdout.startswith("epd ")


def test_sigterm_counts_before_a_role_has_taken_over() -> None:
    """Whatever the disposition was: the first process of a container is not ended by a signal that nobody handles."""
    program = (
        "import os, signal, sys, time; import deploy.cli as cli;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "cli.run = lambda *_: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(30));"
        "sys.argv = ['epd', 'encode']; sys.exit(cli.main())"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=TIMEOUT, check=False)
    assert ended.returncode == 0


def test_sigterm_counts_while_serve_starts_its_processes() -> None:
    command = [sys.executable, "-m", "deploy.cli", "serve", "--fake", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        assert "epd serve" in serving.stderr.readline()
        serving.send_signal(signal.SIGTERM)
        said = serving.communicate(timeout=TIMEOUT)[1]
    assert serving.returncode == 0, said
    assert "ERROR" not in said, said


def test_serve_starts_nothing_that_its_router_would_end(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        wrong = {
            ("--port", port): (1, "Address already in use"),
            ("--port", "99999"): (2, "--port 99999 is out of range"),
            ("--port", "0", "--api-key-file", str(tmp_path / "none")): (2, "--api-key-file"),
        }
        for argv, (status, message) in wrong.items():
            done = epd("serve", "--fake", *argv)
            assert (done.returncode, message in done.stderr) == (status, True), done.stderr
            assert ": up after" not in done.stdout + done.stderr
