import signal
import time
from collections import Counter
from random import Random

from tests.faults.registry import experiment
from tests.faults.world import READY_S_MAX, FaultsWorld
from tests.waiting import until

WORKERS_MIN, WORKERS_MAX = 1, 5
_APART_S = (1.5, 6.0)


@experiment("E6", "rebalance storm, 2 to 5 to 1 workers of each group", ci=8, long=200)
def storm(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Let workers come and go, by SIGTERM or SIGKILL, up to five of a group and down to one."""
    wanted = {"events": 2, "media": 2}
    direction = dict.fromkeys(wanted, 1)
    for _ in range(count):
        group = random.choice(list(wanted))
        if not WORKERS_MIN <= wanted[group] + direction[group] <= WORKERS_MAX:
            direction[group] = -direction[group]
        wanted[group] += direction[group]
        if direction[group] > 0:
            with world.fault("worker added"):
                _add(world, group)
        else:
            number = random.choice((signal.SIGTERM, signal.SIGKILL))
            with world.fault(f"worker removed by {number.name}"):
                _remove(world, group, number, random)
        time.sleep(random.uniform(*_APART_S))
    with world.quiet():
        for group in wanted:
            while len(_active(world, group)) < 2:
                _add(world, group)
            while len(_active(world, group)) > 2:
                _remove(world, group, signal.SIGTERM, random)
    return Counter()


def _active(world: FaultsWorld, group: str) -> list[str]:
    return [name for name in world.fleet.active() if name.startswith(f"worker-{group}")]


def _add(world: FaultsWorld, group: str) -> None:
    active = _active(world, group)
    parked = [name for name in world.fleet.members if name.startswith(f"worker-{group}") and name not in active]
    world.fleet.control(parked[0]).unpark()


def _remove(world: FaultsWorld, group: str, number: signal.Signals, random: Random) -> None:
    def removed() -> bool:
        name = random.choice(_active(world, group))
        world.fleet.control(name).park()
        if world.fleet.signal(name, number):
            return True
        # It was not running, so nothing left the group; it comes back, and perhaps another one runs.
        world.fleet.control(name).unpark()
        return False

    until(removed, READY_S_MAX, f"a worker of {group} that runs and can be removed")
