"""Every crash point is called where its step is, ends the process when it is armed, and costs nothing when not."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.runtime import crash_points
from headrace.runtime.crash_points import VARIABLE, CrashPoint, armed, nowhere
from headrace.runtime.errors import Exit, HeadraceError
from tests.faults.experiments.crashes import RELAY, SPOOL, WORKER
from tests.faults.experiments.pytest_runs import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "store", "producers", "batch")


def calls_in(path: Path) -> list[str]:
    """The points that a file passes to `reached`."""
    return [
        node.args[0].attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")).endswith(
            "reached"
        )
        and node.args
        and isinstance(node.args[0], ast.Attribute)
        and ast.unparse(node.args[0].value) == "CrashPoint"
    ]


def test_every_point_is_called_somewhere():
    called = {
        name for package in PACKAGES for path in (ROOT / "headrace" / package).rglob("*.py") for name in calls_in(path)
    }
    assert called == {point.name for point in CrashPoint}


def test_an_experiment_ends_a_process_at_every_point():
    assert {*SPOOL, *WORKER, *RELAY, *COMMANDS} == set(CrashPoint)


def test_nothing_is_armed_where_nothing_is_set():
    assert armed({}, lambda *_: None) is nowhere
    assert armed({VARIABLE: ""}, lambda *_: None) is nowhere
    assert VARIABLE not in os.environ
    assert crash_points.reached is nowhere


@pytest.mark.parametrize(("text", "hits"), [("after_put", 1), ("after_put:1", 1), ("after_put:3", 3)])
def test_the_process_ends_at_the_nth_hit_of_that_point_and_no_other(text: str, hits: int):
    ended: list[tuple[CrashPoint, int]] = []
    reached = armed({VARIABLE: text}, lambda point, nth: ended.append((point, nth)))
    for point in CrashPoint:
        if point is not CrashPoint.AFTER_PUT:
            reached(point)
    for hit in range(1, hits + 3):
        assert bool(ended) == (hit > hits)
        reached(CrashPoint.AFTER_PUT)
    assert ended == [(CrashPoint.AFTER_PUT, hits)]


def test_threads_count_together():
    ended: list[int] = []
    reached = armed({VARIABLE: "after_put:400"}, lambda _point, nth: ended.append(nth))
    threads = [threading.Thread(target=lambda: [reached(CrashPoint.AFTER_PUT) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [400]


@pytest.mark.parametrize("text", ["nowhere", "after_put:0", "after_put:x", "after_put:-1", ":1"])
def test_a_point_that_is_none_is_refused(text: str):
    with pytest.raises(HeadraceError, match=VARIABLE) as refused:
        armed({VARIABLE: text}, lambda *_: None)
    assert refused.value.exit_code is Exit.USAGE
    assert "after_put" in refused.value.hint


@pytest.mark.server
@pytest.mark.parametrize("point", CrashPoint)
def test_a_process_ends_there_at_once(point: CrashPoint):
    script = (
        "import atexit, threading\n"
        "from headrace.runtime.crash_points import CrashPoint, reached\n"
        "atexit.register(print, 'ended in order')\n"
        f"thread = threading.Thread(target=lambda: [reached(CrashPoint({str(point)!r})) for _ in range(2)])\n"
        "thread.start(); thread.join(); print('survived')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {VARIABLE: f"{point}:2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == Exit.CRASHED
    assert ended.stdout == ""
    assert ended.stderr == f"ended at the crash point {point}, time 2\n"
