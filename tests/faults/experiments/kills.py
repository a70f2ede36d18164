import time
from collections import Counter
from random import Random

from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

APART_S = (3.0, 8.0)
"""Less than a restart takes and more, so that kills also meet processes which have only begun."""


@experiment("E1", "SIGKILL of a random process of the service", ci=10, long=200)
def kill_processes(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill one after another, a worker mostly; a process that does not run just then is tried again."""
    killed = 0
    while killed < count:
        time.sleep(random.uniform(*APART_S))
        killed += world.kill(random.choice(world.fleet.active()))
    return Counter()
