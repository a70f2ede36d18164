import os
import subprocess
import sys
from collections import Counter
from random import Random

from tests.faults.fleet import ROOT
from tests.faults.registry import experiment
from tests.faults.world import World

_TEST = "tests/simulation/test_simulation.py::test_nothing_is_lost_and_nothing_comes_twice"
_LINES_SHOWN = 60


@experiment("E20", "simulated schedules of ingest and relay", ci=1000, long=100_000, worldless=True)
def simulate(_world: World, count: int, random: Random) -> Counter[str]:
    """Run so many schedules; raises AssertionError with the minimal trace of one that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--hypothesis-seed={random.randrange(2**32)}", _TEST],
        cwd=ROOT,
        env={**os.environ, "SIMULATION_SCHEDULES": str(count)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write("\n".join(done.stdout.splitlines()[-_LINES_SHOWN:]) + "\n")
        raise AssertionError("a schedule breaks a promise; its minimal trace stands above")
    return Counter({"schedules": count})
