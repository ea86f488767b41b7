"""`make bench-clients`: a short run of each load generator against a running system. docs/clients.md has the commands.

    python -m tests.clients.load [GENERATOR ...] [--base-url URL --model NAME] [--tokenizer FOLDER] [--vllm PROGRAM]

Without --base-url it serves the demo's model, or fakes as long as that has no weights. A generator passes if it says
that all requests succeeded, each with as many tokens as were asked for. vLLM is not installed by this: it is taken from
PATH or --vllm, and skipped if it is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.programs import demo_folder
from tests.clients.environments import programs_of
from tests.serving import serving

REQUESTS = 16
CONCURRENCY = 4
PROMPT_TOKENS = 64  # of text; an image of 448 x 448 comes on top
OUTPUT_TOKENS = 32
SIDE = 448  # pixels
TIMEOUT = 600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is put under load. `tokenizer` is a local folder, `out` an empty one for results."""

    url: str
    model: str
    tokenizer: Path
    out: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """As the generator tells it."""

    succeeded: int
    failed: int
    output_tokens: int

    @property
    def good(self) -> bool:
        """guidellm may end before it has counted the last requests that ran, although these are answered."""
        uncounted = REQUESTS - self.succeeded
        right_length = self.output_tokens == self.succeeded * OUTPUT_TOKENS
        return not self.failed and right_length and 0 <= uncounted < CONCURRENCY


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Arguments of a program, where its report lies in `Target.out`, and how to read that."""

    name: str
    arguments: Callable[[Target], list[str]]
    report: str
    outcome: Callable[[Any], Outcome]
    environ: Mapping[str, str]


def vllm_arguments(target: Target) -> list[str]:
    return [
        *("bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", target.url, "--model", target.model, "--tokenizer", str(target.tokenizer)),
        *("--dataset-name", "random-mm", "--random-input-len", str(PROMPT_TOKENS)),
        *("--random-output-len", str(OUTPUT_TOKENS), "--ignore-eos", "--temperature", "0"),
        *("--random-mm-base-items-per-request", "1", "--random-mm-num-mm-items-range-ratio", "0"),
        *("--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}'),
        *("--random-mm-bucket-config", f"{{({SIDE}, {SIDE}, 1): 1.0}}"),
        *("--num-prompts", str(REQUESTS), "--max-concurrency", str(CONCURRENCY)),
        *("--save-result", "--result-dir", str(target.out), "--result-filename", "vllm.json"),
    ]


def vllm_outcome(report: Any) -> Outcome:
    return Outcome(succeeded=report["completed"], failed=report["failed"], output_tokens=report["total_output_tokens"])


def guidellm_arguments(target: Target) -> list[str]:
    return [
        *("run", "--backend", f"kind=openai_http,target={target.url},model={target.model}"),
        *("--profile", f"kind=concurrent,streams={CONCURRENCY}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={target.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
        *("--data", f"kind=synthetic_image,width={SIDE},height={SIDE}"),
        *("--output", f"kind=json,path={target.out / 'guidellm.json'}", "--disable-console-interactive"),
    ]


def guidellm_outcome(report: Any) -> Outcome:
    (benchmark,) = report["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    return Outcome(
        succeeded=totals["successful"],
        failed=totals["errored"] + totals["incomplete"],
        output_tokens=round(benchmark["metrics"]["output_token_count"]["successful"]["total_sum"]),
    )


def aiperf_arguments(target: Target) -> list[str]:
    return [
        *("profile", "--endpoint-type", "chat", "--streaming"),
        *("--url", target.url, "--model", target.model, "--tokenizer", str(target.tokenizer)),
        *("--prompt-input-tokens-mean", str(PROMPT_TOKENS), "--prompt-output-tokens-mean", str(OUTPUT_TOKENS)),
        *("--extra-inputs", "ignore_eos:true", "--use-server-token-count"),
        *("--image-batch-size", "1", "--image-width-mean", str(SIDE), "--image-height-mean", str(SIDE)),
        *("--request-count", str(REQUESTS), "--concurrency", str(CONCURRENCY)),
        *("--ui", "none", "--no-gpu-telemetry", "--output-artifact-dir", str(target.out)),
    ]


def aiperf_outcome(report: Any) -> Outcome:
    failed = sum(error["count"] for error in report["error_summary"])
    return Outcome(
        succeeded=round(report["request_count"]["avg"]),
        failed=failed,
        output_tokens=round(report["total_usage_completion_tokens"]["avg"]),
    )


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
GENERATORS = (
    Generator(
        name="vllm",
        arguments=vllm_arguments,
        report="vllm.json",
        outcome=vllm_outcome,
        environ={**OFFLINE, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    ),
    Generator(
        name="guidellm",
        arguments=guidellm_arguments,
        report="guidellm.json",
        outcome=guidellm_outcome,
        environ=OFFLINE,
    ),
    Generator(
        name="aiperf",
        arguments=aiperf_arguments,
        report="profile_export_aiperf.json",
        outcome=aiperf_outcome,
        environ={},  # told to be offline it takes a tokenizer from the hub's cache only, and from no other folder
    ),
)


def run(generator: Generator, program: str, target: Target) -> Outcome | None:
    """Runs it with its own output; None if it ended without a report."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    environ = {**{name: os.environ[name] for name in kept if name in os.environ}, **generator.environ}
    command = [program, *generator.arguments(target)]
    log = target.out / f"{generator.name}.log"
    with log.open("w") as file:
        process = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=TIMEOUT, check=False
        )
    report = target.out / generator.report
    if process.returncode != 0 or not report.exists():
        print(log.read_text()[-8000:])
        return None
    return generator.outcome(json.loads(report.read_text()))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The demo's model, or fakes of it; the URL."""
    model = demo_folder() / "model"
    fake = [] if (model / "model.safetensors").exists() else ["--fake"]
    print(f"== serving {'fakes' if fake else 'the model'} of the demo", flush=True)
    with serving(
        model, folder / "state.json", "--served-model-name", "demo", "--log-level", "warning", *fake
    ) as system:
        yield system.url


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [generator.name for generator in GENERATORS]
    parser.add_argument("generator", nargs="*", help=f"some of {', '.join(names)} (default: all)")
    parser.add_argument("--base-url", help="a running router, without /v1")
    parser.add_argument("--model", default="demo", help="its model's name")
    parser.add_argument("--tokenizer", type=Path, default=demo_folder() / "model", help="local folder of its tokenizer")
    parser.add_argument("--vllm", default="vllm", help="the program `vllm`, with its path unless it is in PATH")
    arguments = parser.parse_args()
    if unknown := set(arguments.generator) - set(names):
        parser.error(f"there is no generator {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    programs: dict[str, str | None] = {}
    for name in arguments.generator or names:
        programs[name] = shutil.which(arguments.vllm) if name == "vllm" else str(programs_of(name) / name)

    with tempfile.TemporaryDirectory(prefix="epd-load-") as place:
        folder = Path(place)
        if arguments.base_url is not None:
            count = run_all(programs, arguments.base_url, arguments, folder)
        else:
            with served(folder) as url:
                count = run_all(programs, url, arguments, folder)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return int(count["failed"] > 0)


def run_all(programs: Mapping[str, str | None], url: str, arguments: argparse.Namespace, folder: Path) -> Counter[str]:
    count: Counter[str] = Counter()
    for generator in GENERATORS:
        if generator.name not in programs:
            continue
        program = programs[generator.name]
        if program is None:
            print(f"  {generator.name:<9} skipped: there is no program {arguments.vllm}", flush=True)
            count["skipped"] += 1
            continue
        out = folder / generator.name
        out.mkdir()
        target = Target(url=url, model=arguments.model, tokenizer=arguments.tokenizer.resolve(), out=out)
        outcome = run(generator, program, target)
        result = "passed" if outcome is not None and outcome.good else "failed"
        count[result] += 1
        print(f"  {generator.name:<9} {result}: {outcome or 'it ended without a report'}", flush=True)
    return count


if __name__ == "__main__":
    sys.exit(main())
