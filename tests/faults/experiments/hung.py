import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from headrace.runtime.errors import Exit
from tests.faults.armed import Start
from tests.faults.hang import Hang
from tests.faults.registry import experiment
from tests.faults.world import READY_S_MAX, FaultsWorld

WATCHDOG_S = 8
_SOONER = {
    "HEADRACE_WATCHDOG_S": str(WATCHDOG_S),
    "HEADRACE_PROCESSING_DEADLINE_S": "6",
    "HEADRACE_POSTGRES_STATEMENT_S_MAX": "5",
}
NOTICED_S_MAX = 180.0
"""The watchdog's time, a start, a rebalance before it, and what a busy machine takes."""
_STACKS = "most recent call first"
_STUCK = f"exit {int(Exit.STUCK)} "
_POLL_S = 0.2


@experiment("E14", "a hung agent, a blocked event loop, a stuck rejoin", ci=1, long=20)
def hang_workers(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Let each thing hang `count` times: the process has to end by itself with all stacks in its log, and come back."""
    for _ in range(count):
        for what in Hang:
            group = random.choice(("events", "media"))
            names = [name for name in world.fleet.active() if name.startswith(f"worker-{group}")]
            with world.fault(f"hung {what}"):
                _hang(world, what, random.choice(names), names)
    return Counter()


def _hang(world: FaultsWorld, what: Hang, name: str, group: list[str]) -> None:
    """Let a worker hang, and wait until it has ended by itself and serves again."""
    before, logged = _restarts(world, name), len(world.fleet.log(name))
    control = world.fleet.control(name)
    control.queue([Start(env=_SOONER, module=("tests.faults.hang", what))])
    world.fleet.signal(name, signal.SIGKILL)
    _until(lambda: _restarts(world, name) > before, f"{name} to be started with what hangs")
    others = [other for other in group if other != name] if what is Hang.REJOIN else []
    try:
        if others:
            # It may stay away unnoticed while another does its work; so nobody else is there when it has to rejoin.
            world.fleet.wait_ready(READY_S_MAX)
            for other in others:
                world.fleet.control(other).park()
                world.fleet.signal(other, signal.SIGKILL)
        _until(lambda: _restarts(world, name) > before + 1, f"{name} to end by itself")
    finally:
        for other in others:
            world.fleet.control(other).unpark()
    ended = world.fleet.records()[name].last_exit or ""
    assert ended.startswith(_STUCK), f"{name} ended with {ended} instead of as stuck"
    assert _STACKS in world.fleet.log(name)[logged:], f"{name} ended without its stacks in the log"
    world.fleet.wait_ready(READY_S_MAX)


def _restarts(world: FaultsWorld, name: str) -> int:
    return world.fleet.records()[name].restarts


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + NOTICED_S_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {NOTICED_S_MAX:.0f} s for {what}")
        time.sleep(_POLL_S)
