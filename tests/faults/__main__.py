"""`python -m tests.faults`: the proof, as it runs. See docs/faults.md."""

import argparse
import json
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from headrace.runtime.errors import Exit, HeadraceError
from tests.faults.registry import EXPERIMENTS, load
from tests.faults.results import Result, Say, Task, never_judged
from tests.faults.run import carry_out
from tests.faults.summary import table
from tests.faults.versions import versions

RATE_HZ_MAX = 1000.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Printing(Say):
    """Prints each result as one JSON line, and appends it to a file where one is named, after what it was made with."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self._path = path
        began = datetime.now(UTC).isoformat(timespec="seconds")
        run = {"run": began, "seed": seed, "versions": versions()}
        self.progress(json.dumps(run))
        self._append(run)

    def result(self, result: Result) -> Result:
        print(json.dumps(result.line), flush=True)
        self._append(result.line)
        return result

    def _append(self, line: Mapping[str, object]) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def main() -> int:
    """Carry out what was asked for; 0 when every invariant was judged and held."""
    load()
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Injects faults into a real Headrace.")
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help=f"one of {', '.join(EXPERIMENTS)}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ci", action="store_true", help="the slice that runs before every change")
    which.add_argument("--long", action="store_true", help="all of them, with the counts of the long run")
    parser.add_argument("--count", type=int, help="how many faults, instead of the experiment's own count")
    parser.add_argument("--rate", type=float, help="messages a second, instead of the experiment's own rate")
    parser.add_argument("--seed", type=int, help="replays a run; random where it is not given")
    parser.add_argument("--json", type=Path, help="a file to which each result is appended as a line")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in EXPERIMENTS]:
        parser.error(f"there is no experiment {unknown[0]}, only {', '.join(EXPERIMENTS)}")
    if not given.names and not given.ci and not given.long:
        parser.error("name an experiment, or give --ci or --long")
    if given.count is not None and given.count < 1:
        parser.error("--count should be 1 or more")
    if given.rate is not None and not 0 < given.rate <= RATE_HZ_MAX:
        parser.error(f"--rate should be above 0 and at most {RATE_HZ_MAX:g}")
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    tasks = [
        Task(
            entry,
            given.count or (entry.long if given.long else entry.ci or entry.long),
            seed,
            given.rate or entry.rate_hz,
        )
        for name, entry in EXPERIMENTS.items()
        if (name in given.names if given.names else (entry.long if given.long else entry.ci))
    ]
    say = _Printing(given.json, seed)
    began = time.monotonic()
    results = carry_out(tasks, say)
    print(table(results, seed=seed, seconds=time.monotonic() - began), file=sys.stderr)
    return Exit.OK if all(result.ok for result in results) and not never_judged(results) else Exit.FAILED


def _stopped(number: int, _frame: object) -> None:
    """End by an exception, so that nothing that was started stays behind; a second signal does not disturb that."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    for each in _ENDING:
        signal.signal(each, _stopped)
    try:
        sys.exit(main())
    except HeadraceError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
