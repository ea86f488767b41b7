"""`make test-compose`: builds the images, brings the compose files up on a real engine, and does bad things to them.

    python -m tests.compose.run [--keep] [STEP ...]

Needs root on Linux, for it kills processes in containers and drops their packets. The exit status is 0 if all
steps passed, 1 if one failed, and 2 if there is no engine and none can be made.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping

from tests.compose.drill import Drill
from tests.compose.engine import NoEngineError, engine

STEPS: Mapping[str, Callable[[Drill], str]] = {
    "images": Drill.images,
    "start in any order": Drill.start_in_any_order,
    "right answers": Drill.right_answers,
    "walls": Drill.walls,
    "epd check": Drill.check_pairs,
    "encode killed": Drill.encode_killed,
    "language killed": Drill.language_killed,
    "router killed": Drill.router_killed,
    "encode 1 -> 3 -> 1": Drill.scaled,
    "encode cut off": Drill.encode_cut_off,
    "language cut off": Drill.language_cut_off,
    "encode, language apart": Drill.servers_apart,
    "100 Mbit/s, 20 ms": Drill.slow_network,
    "dashboard": Drill.dashboard,
    "traces": Drill.traces,
    "stopped while it answers": Drill.drained,
    "another model": Drill.another_model,
    "a model of a hub": Drill.model_of_a_hub,
    "all in one": Drill.all_in_one,
    "two machines": Drill.two_machines,
    "down": Drill.down,
}

FROM_NOTHING = ("images", "start in any order")  # all other steps find a system that runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="*", help=f"some of: {', '.join(STEPS)} (default: all; images are always built)")
    parser.add_argument("--keep", action="store_true", help="leave the system running, on an engine that was there")
    arguments = parser.parse_args()
    if unknown := set(arguments.step) - STEPS.keys():
        parser.error(f"there is no step {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("== skipped: only root can do to containers what is to be done", file=sys.stderr)
        return 2
    wanted = {name: step for name, step in STEPS.items() if not arguments.step or name in (*arguments.step, "images")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # all that was begun is undone
    try:
        with engine() as variables:
            return run(Drill(variables), wanted, keep=arguments.keep)
    except NoEngineError as error:
        print(f"== skipped: {error}", file=sys.stderr)
        return 2


def run(drill: Drill, steps: Mapping[str, Callable[[Drill], str]], *, keep: bool) -> int:
    """The exit status. A step that fails is told with the logs of that time, and the next one begins anew."""
    passed = failed = 0
    try:
        for name, step in steps.items():
            begin, since = time.monotonic(), time.time()
            try:
                if name not in FROM_NOTHING:
                    drill.project.up()
                note, outcome = step(drill), "passed"
                passed += 1
            except Exception:  # noqa: BLE001  whatever it is, it is this step's failure
                note, outcome = "", "failed"
                failed += 1
                traceback.print_exc()
                print(drill.project.logs("--since", f"{since:.3f}", "--tail", "60"), flush=True)
            print(f"  {name:<25} {outcome} {time.monotonic() - begin:6.1f} s  {note}", flush=True)
            if outcome == "failed":
                drill.recover()
    finally:
        if not keep:
            drill.end()
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
