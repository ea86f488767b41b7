"""From requests that failed to the server, or the way between two servers, that is to blame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from deploy.check.trial import Failure, Trial
from deploy.remote import printable

_SLOWER = 10.0  # times as long as at other pairs
_SLOW_MS = 20.0  # below that nobody waits for a transfer

_UNREACHABLE = (
    "The encode server can't send to the language server's data port (9003). Look at --data-listen and "
    "--data-advertise of the language server, and for a firewall between the two machines."
)
_BROKEN = (
    "What arrives is not what was sent. Look at epd_frames_rejected_total of the language server, and the network."
)
_BUSY = "It has more work than it takes: look at `epd top`, and ask again when there is less."
_TIMEOUT = "It may be stuck or have far too much work: look at `epd top` and at its log."


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong; `where` and `what` are a sentence."""

    where: str
    what: str
    advice: str = ""


def unready(servers: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Servers that the router does not use."""
    found = []
    for server in servers:
        if not server["ready"]:
            where = f"{server['role']} server {server['address']}"
            trouble = printable(str(server.get("trouble") or "the router does not say why"))
            what = f"is not ready: {trouble.removeprefix(where).lstrip(': ')}"
            found.append(Finding(where=where, what=what, advice=_advice_for(trouble)))
    return found


def diagnose(trials: Sequence[Trial]) -> list[Finding]:
    """What the failures have in common, as far as they have.

    A language server that has no answer to a text is to blame for its images, too. Otherwise a server is to blame if it
    fails with all others, of which there are several; else it is a pair.
    """
    findings = []
    deaf = {trial.language for trial in trials if trial.encode is None and not trial.ok}
    for language in sorted(deaf):
        failed = [trial for trial in trials if trial.language == language and not trial.ok]
        findings.append(_finding(f"language server {language}", "has no answer, even to a text", failed))
    images = [trial for trial in trials if trial.encode is not None and trial.language not in deaf]
    for encode in dict.fromkeys(trial.encode for trial in images):
        tried = [trial for trial in images if trial.encode == encode]
        if len(tried) > 1 and not any(trial.ok for trial in tried):
            findings.append(_finding(f"encode server {encode}", "fails with every language server", tried))
            images = [trial for trial in images if trial.encode != encode]
    for language in dict.fromkeys(trial.language for trial in images):
        tried = [trial for trial in images if trial.language == language]
        if len(tried) > 1 and not any(trial.ok for trial in tried):
            what = "gets no image from any encode server, though it answers texts"
            findings.append(_finding(f"language server {language}", what, tried))
            images = [trial for trial in images if trial.language != language]
    for trial in images:
        if not trial.ok:
            pair = f"encode server {trial.encode} and language server {trial.language}"
            findings.append(_finding(pair, "fail together" if len(images) > 1 else "fail", [trial]))
    return findings


def slow_transfers(trials: Iterable[Trial]) -> list[Trial]:
    """Pairs that take an order of magnitude longer for the same bytes than the others do."""
    moved = [trial for trial in trials if trial.ok and "transfer" in trial.timings]
    slow = []
    for trial in moved:
        others = [other.timings["transfer"] for other in moved if other is not trial]
        took = trial.timings["transfer"]
        if others and took > max(_SLOW_MS, _SLOWER * median(others)):
            slow.append(trial)
    return slow


def _finding(where: str, what: str, failed: Sequence[Trial]) -> Finding:
    """`failed`: trials with a failure, of which the first one is told, or one that is clearer."""
    failures = [trial.failure for trial in failed if trial.failure is not None]
    shown = next((failure for failure in failures if failure.status is not None), failures[0])
    whose = "their logs say" if " and " in where else "its log says"
    ids = ", ".join(trial.request_id for trial in failed[:4])
    logs = f"See what {whose} of this moment; the router's log has it under {ids}."
    advice = " ".join(filter(None, (_advice(shown), logs)))
    return Finding(where=where, what=f"{what}: {told(shown)}", advice=advice)


def told(failure: Failure) -> str:
    return f"HTTP {failure.status}: {failure.message}" if failure.cause == "refused" else failure.message


def _advice(failure: Failure) -> str:
    if failure.cause == "timeout":
        return _TIMEOUT
    if failure.status == 429:
        return _BUSY
    if "can't reach the language server" in failure.message:
        return _UNREACHABLE
    if "arrived broken" in failure.message:
        return _BROKEN
    return ""


def _advice_for(trouble: str) -> str:
    """For a server that is not ready."""
    if "onnect" in trouble or "could not be reached" in trouble or "does not answer" in trouble:
        return "Does it run, and can the router's machine reach that address?"
    if "Method not found" in trouble:
        return "A server of another role is there: are --encode and --language of the router the wrong way round?"
    if "another model" in trouble or "has hidden" in trouble or "has dtype" in trouble or "has levels" in trouble:
        return "Start it with the --model, --revision and --dtype that the others have."
    if "shutting down" in trouble:
        return "It drains and will end; unless somebody wants that, see who sent it SIGTERM."
    if "version" in trouble or "protocol" in trouble:
        return "During an upgrade it is used once most servers are of its version."
    if "can't be resolved" in trouble:
        return "Look at the router's --encode and --language, and at the DNS."
    return ""
