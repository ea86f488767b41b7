"""A check for human eyes, line by line as it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deploy.check.check import Report
from deploy.check.diagnosis import told
from deploy.check.trial import Trial

STAGES = ("fetch", "preprocess", "vision", "transfer", "queue", "prefill", "decode")
_OF_IMAGES = STAGES[:4]


class Printer:
    """Args:
    say: gets each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._width = 0  # of the names of trials

    def servers(self, report: Report) -> None:
        """The servers, and the head of the table that follows."""
        addresses = {
            role: [len(server["address"]) for server in report.servers if server["role"] == role]
            for role in ("encode", "language")
        }
        self._width = sum(max(lengths, default=0) for lengths in addresses.values()) + len("image   -> ")
        self._say(f"router {report.url}, epd-serve {report.version}")
        for server in report.servers:
            address = server["address"].ljust(max(addresses[server["role"]]))
            self._say(f"  {server['role']:<9}{address}  {_state(server)}")
        self._say("")
        head = "".join(_cell(stage, stage) for stage in STAGES)
        self._say(f"{'milliseconds':<{self._width}}{head}{'all':>9}")

    def trial(self, trial: Trial) -> None:
        name = f"text  {trial.language}" if trial.encode is None else f"image {trial.encode} -> {trial.language}"
        name = name.ljust(self._width)
        if trial.failure is not None:
            self._say(f"{name}  FAILED after {trial.seconds:.1f} s: {told(trial.failure)}")
            return
        took = "".join(
            _cell(stage, "-" if trial.encode is None and stage in _OF_IMAGES else _milliseconds(trial, stage))
            for stage in STAGES
        )
        self._say(f"{name}{took}{1000 * trial.seconds:>9.1f}")

    def verdict(self, report: Report) -> None:
        if report.servers:
            self._say("")
        for hint in report.hints:
            self._say(f"hint: {hint}")
        if report.ok:
            self._say(
                f"all is well: {_count(report.pairs, 'pair')}, {_count(report.texts, 'language server')} with text"
            )
            return
        self._say(f"{_count(report.findings, 'problem')}:")
        for finding in report.findings:
            self._say(f"* {finding.where} {finding.what}")
            if finding.advice:
                self._say(f"    {finding.advice}")


def _state(server: Mapping[str, Any]) -> str:
    if not server["ready"]:
        return "NOT READY"
    load = server.get("load") or {}
    seconds = load.get("queue_seconds") or 0.0
    return f"{load.get('running', 0)} running, {load.get('waiting', 0)} waiting, {seconds:.1f} s of work in the queue"


def _cell(stage: str, text: str) -> str:
    return text.rjust(max(9, len(stage) + 2))


def _milliseconds(trial: Trial, stage: str) -> str:
    return f"{trial.timings.get(stage, 0.0):.1f}"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
