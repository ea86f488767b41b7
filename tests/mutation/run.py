"""`make test-mutation`: for each field of a request that is honoured, a router that ignores it fails a test.

    python -m tests.mutation.run [API | FIELD ...]

The tests run once, and it is noted which fields their requests have. Then, for each field, those of them that have it
run with a router that overlooks it, until one fails: those first that name it. The exit status is 0 if all were caught.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutation.dropping import NEEDED
from tests.mutation.mutants import APIS, mutants

ROOT = Path(__file__).parents[2]
TESTS = ("tests/integration/router", "tests/integration/contract", "tests/integration/either")
# Slow and about processes; and a model would only say what the fakes say, but later.
LEFT_OUT = ("--ignore", "tests/integration/router/test_workers.py", "-k", "not seeing")
AT_ONCE = 2
TIMEOUT = 300.0  # seconds for one mutant: a test that hangs has noticed something, too

# Fields that change nothing, and are not meant to.
INERT = {
    "*.cache_control": "prefixes are cached anyway",
    "*.AssistantMessage.provider_specific_fields": "of LiteLLM, for providers that know them",
    "*.AssistantMessage.annotations": "of a web search, which nobody made here",
    "*.AssistantMessage.parsed": "OpenAI's client made it of the content",
    "*.parsed_arguments": "OpenAI's client made them of the arguments",
    "*.ToolCall.index": "a call's place in a stream that is over",
    "completions.best_of": "refused, but for as many as n",
    "*.JsonSchema.description": "a grammar has no place for it",
    "messages.Thinking.budget_tokens": "a hint that nothing enforces",
    "messages.ThinkingBlock.signature": "nobody checks it",
    "messages.TextBlock.citations": "of documents, which there are none of",
    "messages.FunctionTool.type": "has one value that is not refused",
    "messages.FunctionTool.eager_input_streaming": "input is always streamed as it is written",
    "messages.FunctionTool.input_examples": "the chat template has no place for them",
    "responses.*Item.id": "nothing is stored under it",
    "responses.*Item.status": "says of an item what nobody asks for",
    "responses.MessageItem.phase": "likewise",
    "responses.ReasoningItem.encrypted_content": "another server's, which nobody else can read",
    "*.StructuredOutputs.disable_fallback": "there is nothing to fall back to",
    "responses.stream_options": "usage always comes",
    "responses.StreamOptions.*": "likewise",
    "messages.stream_options": "likewise",
    "messages.StreamOptions.*": "likewise",
    "responses.n": "refused, but for 1",
    "messages.n": "refused, but for 1",
    "responses.prompt_logprobs": "refused",
    "messages.prompt_logprobs": "refused",
    "responses.return_token*": "refused",
    "messages.return_token*": "refused",
}


@dataclass(frozen=True, kw_only=True)
class Test:
    nodeid: str
    fields: frozenset[str]  # that its requests have, those that they need marked as such
    seconds: float

    @property
    def starts_processes(self) -> bool:
        return self.nodeid.startswith(TESTS[1:])

    def names(self, mutant: str) -> bool:
        """Whether its source has the word."""
        path, _, name = self.nodeid.partition("::")
        return (
            re.search(rf"\b{mutant.rpartition('.')[2].rstrip('_')}\b", sources(path).get(name.partition("[")[0], ""))
            is not None
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    mutant: str
    caught_by: str | None
    remark: str
    seconds: float


@cache
def sources(path: str) -> dict[str, str]:
    """The source of each function of a file of tests."""
    text = (ROOT / path).read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = text.splitlines()
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in functions}


def pytest(*argv: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutation.plugin", "-p", "no:cacheprovider", "-q", *argv]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )


def record(folder: Path) -> list[Test]:
    """What the tests' requests have. Raises SystemExit if one fails as it is."""
    path = folder / "fields.json"
    process = pytest("--record-fields", str(path), *LEFT_OUT, *TESTS)
    if process.returncode != 0:
        print(process.stdout)
        raise SystemExit("the tests fail without any mutant")
    return [
        Test(nodeid=nodeid, fields=frozenset(told["fields"]), seconds=told["seconds"])
        for nodeid, told in json.loads(path.read_text()).items()
    ]


def attempt(mutant: str, tests: Sequence[Test]) -> Result:
    """Runs the tests that could notice it until one does."""
    begin = time.monotonic()
    concerned = [test for test in tests if mutant in test.fields]
    concerned.sort(key=lambda test: (not test.names(mutant), test.starts_processes, test.seconds))
    if not concerned:
        if any(f"{mutant} {NEEDED}" in test.fields for test in tests):
            return Result(
                mutant=mutant, caught_by="(without it the rest of the request is refused)", remark="", seconds=0.0
            )
        return Result(mutant=mutant, caught_by=None, remark="no test has it", seconds=0.0)
    try:
        process = pytest("-x", "--drop-field", mutant, *(test.nodeid for test in concerned), timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        remark = f"no end after {TIMEOUT:.0f} s"
        return Result(mutant=mutant, caught_by=concerned[0].nodeid, remark=remark, seconds=TIMEOUT)
    seconds = time.monotonic() - begin
    failed = re.search(r"^(?:FAILED|ERROR) (\S+(?:\[.*?\])?)(?: - |$)", process.stdout, re.MULTILINE)
    match process.returncode:
        case 0:
            remark = f"{len(concerned)} tests have it, and pass without it"
            return Result(mutant=mutant, caught_by=None, remark=remark, seconds=seconds)
        case 1 if failed is not None:
            return Result(mutant=mutant, caught_by=failed[1], remark="", seconds=seconds)
        case status:
            raise AssertionError(f"{mutant}: pytest ended with status {status}\n{process.stdout}")


def chosen(wanted: Sequence[str]) -> Iterator[str]:
    """Mutants by the names of APIs and fields; all, if there are none."""
    for api in APIS:
        for mutant in mutants(api):
            if not any(fnmatch.fnmatchcase(mutant, pattern) for pattern in INERT) and (
                not wanted or api in wanted or mutant in wanted
            ):
                yield mutant


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", metavar="API|FIELD", help=f"some of {', '.join(APIS)}, or chat.n (all)")
    wanted = parser.parse_args().wanted
    todo = list(chosen(wanted))
    if not todo:
        parser.error("there is no such field")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tests = record(Path(folder))
    print(f"{len(tests)} tests, {time.monotonic() - begin:.0f} s; {len(todo)} mutants", flush=True)
    survivors = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(lambda mutant: attempt(mutant, tests), todo):
            shown = result.caught_by or f"SURVIVES: {result.remark}"
            print(f"{result.mutant:<45} {result.seconds:5.1f} s  {shown}", flush=True)
            if result.caught_by is None:
                survivors.append(result.mutant)
    print(f"{len(todo)} mutants, {len(todo) - len(survivors)} caught, {time.monotonic() - begin:.0f} s")
    for mutant in survivors:
        print(f"survives: {mutant}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
