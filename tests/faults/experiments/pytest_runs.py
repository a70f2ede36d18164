"""Experiments that run as processes of their own: tests with other counts than in `make test`, and fuzz targets."""

import json
import os
import subprocess
import sys
from collections import Counter
from random import Random

from headrace.runtime.crash_points import CrashPoint
from tests.faults.fleet import ROOT
from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

COMMANDS = tuple(
    point
    for point in CrashPoint
    if point.startswith(("redrive_", "collect_", "move_", "erase_", "recover_", "transfer_", "replay_", "backfill_"))
)
_CRASHES = (
    "tests/batch/test_batch_crashes.py",
    "tests/batch/archive/test_archive_crashes.py",
    "tests/streams/test_recovery.py",
    "tests/streams/transfer/test_transfer_crashes.py",
    "tests/batch/replay/test_replay.py",
    "tests/streams/consumers/test_backfill.py",
)
_SCHEDULES = "tests/simulation/test_simulation.py::test_nothing_is_lost_and_nothing_comes_twice"
_LINES_SHOWN = 60


@experiment("E15", "the end of a command at each of its crash points", ci=1, long=20, worldless=True)
def every_crash_point_of_commands(_world: FaultsWorld, count: int, _random: Random) -> Counter[str]:
    """End each command and the backfill at each of its points; raises AssertionError."""
    for _ in range(count):
        _run_tests("-k", "process or older_catalog or replay_ or backfill_", *_CRASHES)
    return Counter({f"crash {point}": count for point in COMMANDS})


@experiment("E20", "simulated schedules of ingest and relay", ci=1000, long=100_000, worldless=True)
def simulate(_world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Run so many schedules; raises AssertionError with the minimal trace of one that fails."""
    _run_tests(f"--hypothesis-seed={random.randrange(2**32)}", _SCHEDULES, SIMULATION_SCHEDULES=str(count))
    return Counter({"schedules": count})


@experiment("E19", "fuzzed messages and record batches", ci=120, long=3600, worldless=True)
def fuzz(_world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Fuzz what a worker reads for `count` seconds; raises AssertionError with every finding above it."""
    command = [sys.executable, "-m", "tests.fuzzing", "--seconds", str(count), "--seed", str(random.randrange(2**31))]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(result.stdout)
    assert result.returncode == 0, "a message stops a worker or is misread; the finding stands above"
    figures = [json.loads(line) for line in result.stdout.splitlines()]
    return Counter({f"fuzzed {line['target']}": line["executions"] for line in figures})


@experiment("E31", "an input topic made anew under a running worker", ci=0, long=10, worldless=True)
def make_topic_anew(_world: FaultsWorld, count: int, _random: Random) -> Counter[str]:
    """Delete a topic and create it again while a worker reads it; raises AssertionError where messages are missing."""
    for _ in range(count):
        _run_tests("-k", "made_anew", "tests/streams/test_worker_progress.py")
    return Counter({"topic made anew": count})


def _run_tests(*args: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *args],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.stderr.write("\n".join(result.stdout.splitlines()[-_LINES_SHOWN:]) + "\n")
        raise AssertionError("a promise is broken; the failure stands above")
