"""`make check-k8s`: renders what lies in deploy/k8s with kubectl, and holds it against schemas and our own rules.

    python -m tests.k8s.check

The exit status is 0 if all is well, 1 if something is not, and 2 if nothing was checked because there is no kubectl.
What needs no rendering the test suite checks too (tests/unit/deploy/k8s).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from tests.environments import prepare_python
from tests.k8s.manifests import K8S, ROOT, Manifests, rendered
from tests.k8s.rules import SERVING, Rule, broken
from tests.k8s.traffic import ALLOWED, HUB, TRACING, Connection, check_traffic

BUILD = ROOT / "build" / "k8s"
PINS = Path(__file__).parent / "kubernetes-validate.txt"
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the oldest that has all we use (preStop's sleep), and the newest known

# What is rendered, which connections it should allow, and what has to hold beyond what always has to.
CASES: tuple[tuple[str, Collection[Connection], Collection[Rule]], ...] = (
    ("base", ALLOWED, ()),
    ("overlays/demo", ALLOWED, ()),
    ("overlays/gpu", ALLOWED | HUB, SERVING),
    ("volume", ALLOWED | HUB, SERVING),
    ("tracing", ALLOWED | HUB | TRACING, SERVING),
)
# Made here: the overlay for GPUs with a component of which it only has a comment.
EXTRA = {"volume": "model-volume", "tracing": "tracing"}


def main() -> int:
    if shutil.which("kubectl") is None:
        print("== skipped: there is no kubectl here; on Debian: apt-get install kubernetes-client")
        return 2
    programs = prepare_python(BUILD / "kubernetes-validate", PINS)
    passed = failed = 0
    for name, allowed, more in CASES:
        problems = check(folder_of(name), BUILD / f"{name.replace('/', '-')}.yaml", programs, allowed, more)
        print(f"  {name:<15} {'failed' if problems else 'passed'}")
        print("".join(f"    | {problem}\n" for problem in problems), end="")
        passed, failed = passed + (not problems), failed + bool(problems)
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


def folder_of(name: str) -> Path:
    """Where a kustomization lies; those of `EXTRA` are made first."""
    if name not in EXTRA:
        return K8S / name
    folder = BUILD / name
    shutil.copytree(K8S / "overlays" / "gpu", folder, dirs_exist_ok=True)
    file = folder / "kustomization.yaml"
    text = file.read_text()
    comment = f"  # - ../../components/{EXTRA[name]}\n"
    assert comment in text
    file.write_text(text.replace(comment, comment.replace("# ", "")).replace("../../", "../../../deploy/k8s/"))
    return folder


def check(
    folder: Path, file: Path, programs: Path, allowed: Collection[Connection], more: Collection[Rule]
) -> list[str]:
    """What is wrong with a kustomization, a line each; `file` gets what it renders to."""
    try:
        text = rendered(folder)
    except subprocess.CalledProcessError as error:
        return [f"kubectl kustomize ended with status {error.returncode}"]
    file.write_text(text)
    problems = []
    for version in VERSIONS:
        # Quiet, it prints only what is wrong, and warns where it has no schema: that is wrong too.
        command = [str(programs / "kubernetes-validate"), "--strict", "--quiet", "-k", version, str(file)]
        validation = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        problems += validation.stdout.splitlines()
        if validation.returncode and not validation.stdout:
            problems.append(f"kubernetes-validate ended with status {validation.returncode}")
    manifests = Manifests.of(text)
    return problems + broken(manifests, more) + check_traffic(manifests, allowed)


if __name__ == "__main__":
    sys.exit(main())
