"""`make test-clients`: starts the system, lets each client's script ask it, says what worked.

    python -m tests.clients.run [--scripted] [CLIENT ...]

First fakes play the scenario, then the demo's model answers for itself. The exit status is 0
if all clients passed; one that this machine lacks a program for is skipped, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deploy.programs import demo_folder
from tests.clients.environments import CLIENTS, Client
from tests.clients.scenario import SCRIPTED, TRAINED, Scenario, fake_script
from tests.serving import ROOT, serving

MODEL = "demo"
KEY = "a-key-of-the-clients"
TIMEOUT = 180.0  # seconds for all steps of a client


def run(client: Client, scenario: Path) -> Counter[str]:
    """Runs a client's steps and prints a line for each; how many passed and failed."""
    try:
        process = subprocess.run(
            client.command(scenario), cwd=ROOT, env=_environ(), capture_output=True, text=True, timeout=TIMEOUT
        )
        output, errors, status = process.stdout, process.stderr, process.returncode
    except subprocess.TimeoutExpired as late:
        output, errors, status = _text(late.stdout), _text(late.stderr), -1
    reports = [json.loads(line) for line in output.splitlines() if line.startswith('{"step":')]
    count: Counter[str] = Counter()
    for report in reports:
        outcome = "failed" if report["error"] else "passed"
        count[outcome] += 1
        print(f"  {client.name:<12} {report['step']:<18} {outcome} {report['seconds']:6.2f} s", flush=True)
    if status != 0:
        print("".join(f"    | {line}\n" for line in errors.splitlines()[-60:]), flush=True)
    if (status != 0 and not count["failed"]) or not reports:
        print(f"  {client.name:<12} failed: its script ended with status {status}", flush=True)
        count["failed"] += 1
    return count


def run_all(clients: Sequence[Client], scenario: Scenario, folder: Path, *argv: str) -> Counter[str]:
    """Serves the demo's model, or fakes of it, and runs the clients one after another."""
    folder.mkdir()
    count: Counter[str] = Counter()
    argv = ("--served-model-name", MODEL, "--api-key", KEY, "--log-level", "warning", *argv)
    with serving(demo_folder() / "model", folder / "state.json", *argv) as served:
        file = folder / "scenario.json"
        file.write_text(scenario.to_json(url=served.url, key=KEY, model=MODEL))
        for client in clients:
            count += run(client, file)
    return count


def prepared(client: Client) -> str:
    """Makes the client's environment; what is wrong if that is not possible, else ""."""
    try:
        client.prepare()
    except (subprocess.CalledProcessError, OSError) as error:
        return str(error)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [client.name for client in CLIENTS]
    parser.add_argument("client", nargs="*", help=f"some of {', '.join(names)} (default: all)")
    parser.add_argument("--scripted", action="store_true", help="only the fakes")
    arguments = parser.parse_args()
    wanted = arguments.client
    if unknown := set(wanted) - set(names):
        parser.error(f"there is no client {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    count: Counter[str] = Counter()
    clients = []
    for client in CLIENTS:
        if wanted and client.name not in wanted:
            continue
        if missing := client.missing():
            print(f"== {client.name} skipped: {missing}")
            count["skipped"] += 1
        elif problem := prepared(client):
            print(f"== {client.name} failed: no environment: {problem}")
            count["failed"] += 1
        else:
            clients.append(client)

    with tempfile.TemporaryDirectory(prefix="epd-clients-") as name:
        folder = Path(name)
        script = folder / "script.json"
        script.write_text(json.dumps(fake_script()))
        config = folder / "epd.toml"
        config.write_text(f"[language]\nscript = {json.dumps(str(script))}\n")
        if clients:
            print("== fakes that play a scenario", flush=True)
            count += run_all(clients, SCRIPTED, folder / "fakes", "--fake", "--config", str(config))
        if clients and not arguments.scripted:
            print("== the demo's model", flush=True)
            count += run_all(clients, TRAINED, folder / "model")
    print(
        f"{count['passed']} passed, {count['failed']} failed" + f", {count['skipped']} skipped" * bool(count["skipped"])
    )
    return int(count["failed"] > 0)


def _environ() -> dict[str, str]:
    """Without the settings that these clients would take from the caller's environment, and without a hub."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "NO_PROXY": "127.0.0.1"}


def _text(output: bytes | str | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""


if __name__ == "__main__":
    sys.exit(main())
