"""`make fuzz`: schemathesis asks a running system for whatever `/openapi.json` allows, and for what it does not.

    python -m tests.fuzz.openapi [--seconds N] [--seed N]

No answer may be a 5xx, have a status or a content type that the document does not have, or a body that is not as
described there. The servers are fakes: what is tried is what strangers reach first. The exit status is that of
schemathesis.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.programs import demo_folder
from tests.environments import prepare_python
from tests.serving import ROOT, serving

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "fuzz"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
KEY = "a-key-of-the-fuzzer"
# Requests are refused or answered at once, so that the time goes into trying.
OPTIONS = ("--fake", "--served-model-name", "demo", "--api-key", KEY, "--max-model-len", "512", "--log-level", "error")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="for the whole run (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to see it again")
    arguments = parser.parse_args()
    programs = prepare_python(BUILD, HERE / "schemathesis.txt")
    with tempfile.TemporaryDirectory(prefix="epd-fuzz-") as name:
        config = Path(name) / "epd.toml"
        config.write_text("[language]\nrate = 0\n")
        with serving(demo_folder() / "model", Path(name) / "state.json", "--config", str(config), *OPTIONS) as served:
            command = [str(programs / "schemathesis"), "run", f"{served.url}/openapi.json"]
            command += ["--checks", CHECKS, "--header", f"Authorization:Bearer {KEY}", "--no-color"]
            command += ["--max-time", str(arguments.seconds), "--request-timeout", "30", "--warnings", "off"]
            command += ["--generation-database", "none", "--continue-on-failure", "--max-failures", "20"]
            if arguments.seed is not None:
                command += ["--seed", str(arguments.seed)]
            status = subprocess.run(command, cwd=name).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
