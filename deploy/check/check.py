"""What is asked of a router and its servers, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deploy.check.diagnosis import Finding, diagnose, slow_transfers, unready
from deploy.check.router import CheckError, Router
from deploy.check.trial import Trial

ROUTER = "the router"


@dataclass(kw_only=True)
class Report:
    """What was found; `findings` are wrong, `hints` may be."""

    url: str
    version: str = ""
    servers: Sequence[Mapping[str, Any]] = ()
    trials: list[Trial] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def texts(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.encode is None]

    @property
    def pairs(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.encode is not None]

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "url": self.url,
            "version": self.version or None,
            "servers": list(self.servers),
            "texts": [_trial_json(trial) for trial in self.texts],
            "pairs": [_trial_json(trial) for trial in self.pairs],
            "problems": [asdict(finding) for finding in self.findings],
            "hints": self.hints,
        }


def check(
    router: Router, url: str, *, on_servers: Callable[[Report], None], on_trial: Callable[[Trial], None]
) -> Report:
    """Asks everything that can be asked.

    Args:
        router: open.
        url: of it, for the report.
        on_servers: is told once the servers are known.
        on_trial: is told after each request.
    """
    report = Report(url=url)
    try:
        missing = router.waiting_for()
        report.version = router.version()
        report.servers = router.servers()
    except CheckError as error:
        report.findings.append(Finding(where=ROUTER, what=f"can't be asked: {error.message}", advice=error.advice))
        return report
    report.findings += unready(report.servers)
    told = {server.get("trouble") for server in report.servers}
    report.findings += [
        Finding(where=ROUTER, what=f"is not ready, it waits for: {entry}") for entry in missing if entry not in told
    ]
    on_servers(report)

    def note(trial: Trial) -> Trial:
        on_trial(trial)
        return trial

    languages, encoders = _ready(report.servers, "language"), _ready(report.servers, "encode")
    report.trials += [note(router.text(language)) for language in languages]
    if has_vision(report.servers):
        for encode in encoders:
            report.trials += [note(router.image(encode, language)) for language in languages]
    else:
        report.hints.append("the model takes no images, so no pairs were tried")
    report.findings += diagnose(report.trials)
    if report.ok and not (report.pairs if has_vision(report.servers) else report.texts):
        missing_role = "encode" if languages else "language"
        report.findings.append(Finding(where=ROUTER, what=f"says that it is ready but lists no {missing_role} server"))
    for trial in slow_transfers(report.pairs):
        assert trial.encode is not None
        again = note(router.image(trial.encode, trial.language))  # the first one may have had to connect
        if again.ok and slow_transfers([other for other in report.pairs if other is not trial] + [again]) == [again]:
            report.hints.append(
                f"encode server {trial.encode} takes {again.timings['transfer']:.0f} ms to send to language server "
                f"{trial.language}, over ten times as long as other pairs: look at the network between the two"
            )
    return report


def has_vision(servers: Sequence[Mapping[str, Any]]) -> bool:
    """Also true as long as nobody knows."""
    models = [server.get("model") for server in servers if server["role"] == "language"]
    said = [model["vision"] for model in models if isinstance(model, dict) and "vision" in model]
    return any(said) or not said


def _ready(servers: Sequence[Mapping[str, Any]], role: str) -> list[str]:
    return sorted(server["address"] for server in servers if server["role"] == role and server["ready"])


def _trial_json(trial: Trial) -> dict[str, Any]:
    shown = {"encode": trial.encode} if trial.encode is not None else {}
    return {
        **shown,
        "language": trial.language,
        "ok": trial.ok,
        "request_id": trial.request_id,
        "seconds": round(trial.seconds, 4),
        "timings": dict(trial.timings),
        "failure": asdict(trial.failure) if trial.failure is not None else None,
    }
