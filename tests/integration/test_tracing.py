"""One trace through all processes: a client's context over HTTP and gRPC, and a span for each stage."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.demo.random_weights import write_checkpoint
from deploy.programs import demo_folder
from tests.otlp_collector import Collected, Collector, collecting
from tests.serving import router_url, wait_states

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds; reached only when something is broken
PARENT = "00f067aa0ba902b7"
TRACE, UNSAMPLED, MALFORMED, FAILING = (f"4bf92f3577b34da6a3ce929d0e0e473{digit}" for digit in range(4))
ROUTER_STAGES = {"body", "parse", "template", "fetch", "hash", "size", "tokenize"}
ENCODE_STAGES = {"receive", "header", "queue", "preprocess", "batch", "vision", "transfer"}
LANGUAGE_STAGES = {"queue", "inbox", "prefill", "decode"}
WORD = "quetzalcoatlus"  # of the prompt


@dataclass(frozen=True, kw_only=True)
class System:
    url: str
    collector: Collector
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, image: str | None, headers: Sequence[tuple[str, str]] = (), **fields: Any) -> httpx.Response:
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"Is this a {WORD}?"}]
        if image is not None:
            content = base64.b64encode((demo_folder() / "images" / image).read_bytes()).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}})
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 4, "ignore_eos": True, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=list(headers), timeout=TIMEOUT)

    def end(self) -> list[Collected]:
        """Ends all processes; everything that they have exported."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0, self.log.read_text()
        return self.collector.spans


@contextmanager
def serving(folder: Path, *argv: str, **variables: str) -> Iterator[System]:
    """`epd serve` with a collector."""
    state_file, log = folder / "state.json", folder / "log"
    command = [sys.executable, "-m", "deploy.cli", "serve", "--port", "0", "--state-file", str(state_file), *argv]
    with collecting() as collector, log.open("wb") as output:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}
        with subprocess.Popen(command, cwd=ROOT, stderr=output, stdout=output, env=environ) as process:
            try:
                url = router_url(wait_states(process, state_file, log))
                yield System(url=url, collector=collector, process=process, log=log)
            finally:
                process.kill()


def traceparent(trace: str, flags: str = "01") -> list[tuple[str, str]]:
    return [("traceparent", f"00-{trace}-{PARENT}-{flags}")]


def check_trace(spans: Sequence[Collected], encode_stages: set[str]) -> None:
    """One request with one image: who is whose child, and that each stage lies within the span that it is of."""
    children: dict[str, dict[str, Collected]] = defaultdict(dict)
    for span in spans:
        assert span.name not in children[span.parent], f"two of {span.name}"
        children[span.parent][span.name] = span
    (root,) = children[PARENT].values()
    assert (root.service, root.name, root.kind) == ("epd-router", "POST /v1/chat/completions", "server")
    assert children[root.span_id].keys() == ROUTER_STAGES | {"encode", "generate"}
    calls = {name: span for name, span in children[root.span_id].items() if span.kind == "client"}
    assert calls.keys() == {"encode", "generate"}
    assert calls["generate"].events == ("admitted", "item received", "first token")
    (encoded,) = children[calls["encode"].span_id].values()
    (generated,) = children[calls["generate"].span_id].values()
    assert (encoded.service, encoded.name, encoded.kind) == ("epd-encode", "encode", "server")
    assert (generated.service, generated.name, generated.kind) == ("epd-language", "generate", "server")
    encoding, generating = children[encoded.span_id], children[generated.span_id]
    assert encoding.keys() == encode_stages
    assert generating.keys() == LANGUAGE_STAGES
    assert len(spans) == 5 + len(ROUTER_STAGES) + len(encoding) + len(generating)
    for parent in (root, encoded, generated):
        for span in children[parent.span_id].values():
            # clocks of processes of one machine; a stage's begin and end are converted at its end
            assert parent.start - 0.02 <= span.start <= span.end <= parent.end + 0.02, (span, parent)
    assert generating["queue"].end <= generating["prefill"].start + 0.001
    assert abs(generating["prefill"].end - generating["decode"].start) < 0.001
    assert encoding["transfer"].start - 0.02 <= generating["inbox"].end <= encoding["transfer"].end + 0.02
    assert not any(span.is_error for span in spans)
    ids = {span.attributes["epd.request_id"] for span in (root, encoded, generated)}
    assert len(ids) == 1
    assert {span.attributes["epd.outcome"] for span in (root, encoded, generated)} == {"finished"}
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.output_tokens"] == generated.attributes["gen_ai.usage.output_tokens"] == 4


def test_the_fakes_in_one_trace(tmp_path: Path) -> None:
    with serving(tmp_path, "--fake", "--log-level", "debug") as system:
        assert system.ask("stripes.png", [*traceparent(TRACE), ("tracestate", "vendor=1")]).status_code == 200
        # What the client does not sample is not exported, and a context that makes no sense is none.
        assert system.ask("circle-and-square.png", traceparent(UNSAMPLED, "00")).status_code == 200
        assert system.ask(None, [("traceparent", f"00-{MALFORMED}-nonsense-01")]).status_code == 200
        broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        messages = [{"role": "user", "content": [broken, {"type": "text", "text": WORD}]}]
        assert system.ask(None, traceparent(FAILING), messages=messages).status_code == 400
        traces: dict[str, list[Collected]] = defaultdict(list)
        for span in system.end():
            traces[span.trace_id].append(span)
    assert traces.keys() >= {TRACE, FAILING}
    assert not traces.keys() & {UNSAMPLED, MALFORMED}
    (fresh,) = traces.keys() - {TRACE, FAILING}
    check_trace(traces[TRACE], ENCODE_STAGES - {"preprocess", "batch"})  # a fake decodes nothing and has no batches
    assert {span.state for span in traces[TRACE] if span.kind == "server"} == {"vendor=1"}
    assert {span.service for span in traces[fresh]} == {"epd-router", "epd-language"}
    assert [span.kind for span in traces[fresh] if not span.parent] == ["server"]
    errors = {(span.service, span.name): span.attributes["error.type"] for span in traces[FAILING] if span.is_error}
    assert errors == {
        ("epd-encode", "encode"): "bad_media",
        ("epd-encode", "header"): "bad_media",
        ("epd-router", "encode"): "bad_media",
        ("epd-router", "size"): "ItemError",
    }
    (root,) = (span for span in traces[FAILING] if span.parent == PARENT)
    assert (root.attributes["http.response.status_code"], root.attributes["error.type"]) == (400, "invalid_media")
    every = repr(traces)
    assert WORD not in every
    assert "base64" not in every
    lines = [line for line in system.log.read_text().splitlines() if f"trace_id='{TRACE}'" in line]
    for name in ("chat completion", "encode  request_id", "generate  request_id"):
        assert sum(name in line for line in lines) == 1, name


@pytest.mark.parametrize("placement", [(), ("--colocated",)], ids=["apart", "colocated"])
def test_real_servers_in_one_trace(tmp_path: Path, placement: tuple[str, ...]) -> None:
    """Stages of the engine's process come with their real times, though that knows nothing of traces."""
    write_checkpoint(tmp_path / "demo")
    argv = ["--model", str(tmp_path / "demo"), "--dtype", "float32", "--kv-cache-bytes", "16MiB", *placement]
    with serving(tmp_path, *argv) as system:
        assert system.ask("stripes.png", traceparent(TRACE)).status_code == 200
        spans = system.end()
    assert {span.trace_id for span in spans} == {TRACE}
    check_trace(spans, ENCODE_STAGES)


@pytest.mark.parametrize("role", ["router", "serve"])
def test_traces_without_the_extra_are_an_error_that_names_it(role: str) -> None:
    program = "import sys; sys.modules['opentelemetry.sdk'] = None; import deploy.cli; sys.exit(deploy.cli.main())"
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", program, role, *(["--fake"] if role == "serve" else [])]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ended.returncode == 2
    assert "pip install 'epd-serve[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr
