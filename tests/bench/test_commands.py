"""The commands of docs/benchmarks.md on real servers, with as few messages as they take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND_S_MAX = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*args: str) -> dict[str, dict[str, object]]:
    """Return the JSON object that a command of Python prints last."""
    result: dict[str, dict[str, object]] = json.loads(lines(*args)[-1])
    return result


def lines(*args: str) -> list[str]:
    """Run a command of Python in the checkout; return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("case", "figure"),
    [("frames", "frames_cpu_ms"), ("ldos", "ldos_rss_mb"), ("relay", "relay_cpu_ms"), ("idle", "idle_percent")],
)
def test_a_case_runs_with_a_store_in_a_directory(case: str, figure: str) -> None:
    result = run("headrace", "bench", case, "--store", "local", "--count", "100", "--seconds", "1", "--json")
    assert result["figures"][figure]["value"] >= 0


def test_every_part_of_the_growth_run_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "growth.jsonl"
    counts = ["--records", "5000", "--ldos", "500", "--backlog", "1000"]
    result = run("benchmarks.growth", *counts, "--json", str(file))
    assert json.loads(file.read_text()) == result
    assert result["catalog"]["insert_ratio"] > 0
    assert {"ls", "LDO list", "LDO count"} <= result["catalog"]["pages_ms"].keys()
    assert result["workers"].keys() == {"workers_1", "workers_2"}
    assert result["backlog"]["recorded_and_rss_mib"][-1][0] == 1000


def test_the_transaction_is_measured_alone_and_beside_copy() -> None:
    printed = [line.split() for line in lines("benchmarks.commits", "--rows", "1000")[-4:]]
    assert [row[:2] for row in printed] == [["worker", "1"], ["worker", "100"], ["worker", "1000"], ["COPY", "1000"]]


def test_the_consumers_are_measured() -> None:
    names = [line[:28].strip() for line in lines("benchmarks.consumers", "--frames", "2")]
    assert names[1:] == ["decoding whole, in colour", "preprocessing", "perception"]
