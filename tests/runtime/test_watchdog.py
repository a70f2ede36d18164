"""Whatever hangs exits: with code 70 and every thread's stack in the log."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from headrace.runtime import watchdog as watchdog_module
from headrace.runtime.errors import Exit
from headrace.runtime.watchdog import Watchdog
from tests.runtime.runtime_scripts import run
from tests.waiting import until

HANGS = """
import asyncio, sys, time
from headrace.runtime.watchdog import Watchdog

def stands_still_here():
    time.sleep(60)

async def blocks_the_loop():
    stands_still_here()

Watchdog(0.3, waiting=lambda: True, progress=lambda: ("edge.frames.v1", 3)).start()
asyncio.run(blocks_the_loop()) if sys.argv[1] == "loop" else stands_still_here()
"""


@pytest.mark.server
@pytest.mark.parametrize("how", ["loop", "thread"])
def test_a_process_with_work_that_stands_still_ends_with_its_stacks_in_the_log(how: str) -> None:
    ended = run(HANGS, how)
    assert ended.code == Exit.STUCK
    assert "stands_still_here" in ended.err
    assert "stuck" in ended.out + ended.err
    assert "edge.frames.v1" in ended.out + ended.err


NOBODY_LISTENS = """
import sys, time
from headrace.runtime import watchdog
from headrace.runtime.watchdog import Watchdog

class Log:
    def error(self, *_args, **_more):
        raise BrokenPipeError

watchdog.get_log = Log
Watchdog(0.3, waiting=lambda: True, progress=lambda: 1).start()
time.sleep(60)
"""
CANNOT_LOOK = """
import sys, time
from headrace.runtime.watchdog import Watchdog

def fails():
    raise RuntimeError("cannot look")

Watchdog(1.5, **{"waiting": lambda: True, "progress": lambda: 1, sys.argv[1]: fails}).start()
time.sleep(60)
"""


@pytest.mark.server
def test_it_ends_also_where_nobody_can_be_told() -> None:
    assert run(NOBODY_LISTENS).code == Exit.STUCK


@pytest.mark.server
@pytest.mark.parametrize("which", ["waiting", "progress"])
def test_a_watchdog_that_cannot_look_says_so_once_and_goes_on(which: str) -> None:
    ended = run(CANNOT_LOOK, which)
    assert ended.code == Exit.STUCK
    assert (ended.out + ended.err).count("watch_failed") == 1


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(watchdog_module, "_POLL_S", 0.01)
    return codes


@contextmanager
def watched(limit_s: float, *, waiting: Callable[[], bool], progress: Callable[[], object]) -> Iterator[Watchdog]:
    watchdog = Watchdog(limit_s, waiting=waiting, progress=progress)
    watchdog.start()
    yield watchdog
    watchdog.stop()


def test_standing_still_without_work_is_rest(exits: list[int]) -> None:
    looks = 0

    def progress() -> object:
        nonlocal looks
        looks += 1
        return 1

    with watched(0.05, waiting=lambda: False, progress=progress) as watchdog:
        until(lambda: looks > 20, 20, "twenty looks")
        assert watchdog.livez()[0]
    assert exits == []


def test_moving_with_work_waiting_is_work(exits: list[int]) -> None:
    looks = 0

    def progress() -> object:
        nonlocal looks
        looks += 1
        return looks

    with watched(0.05, waiting=lambda: True, progress=progress) as watchdog:
        until(lambda: looks > 20, 20, "twenty looks")
        assert watchdog.livez()[0]
    assert exits == []


def test_half_way_to_the_end_it_is_no_longer_alive_and_moving_makes_it_so_again(exits: list[int]) -> None:
    moved = [0]
    with watched(1e6, waiting=lambda: True, progress=lambda: moved[0]) as watchdog:
        watchdog._still_since = time.monotonic() - 0.6e6
        alive, why = watchdog.livez()
        assert not alive
        assert "no progress was made for 6" in why
        moved[0] = 1
        until(lambda: watchdog.livez()[0], 20, "it to move again")
    assert exits == []
