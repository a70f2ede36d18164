import time
from collections import Counter
from random import Random

from tests.faults.plan import Mix
from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

APART_S = (3.0, 8.0)
"""Less than a restart takes and more, so that kills also meet processes which have only begun."""
_FOREIGN = Mix(poison=0.04, wrong_digests=0.01, foreign=0.2)
_FULL = Mix(bytes_max=20_000)
_FULL_HZ = 200.0


@experiment("E1", "SIGKILL of a random process of the service", ci=6, long=200)
def kill_processes(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill one after another, a worker mostly; a process that does not run just then is tried again."""
    killed = 0
    while killed < count:
        time.sleep(random.uniform(*APART_S))
        killed += world.kill(random.choice(world.fleet.active()))
    return Counter()


@experiment("E21", "SIGKILL with 5 % of garbage and 20 % of other producers' codecs", ci=2, long=50, mix=_FOREIGN)
def kill_among_foreign_messages(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill processes while a part of what arrives is compressed with gzip, snappy, lz4 or zstd, and a part is none."""
    return kill_processes(world, count, random)


@experiment("E22", "SIGKILL at 200 messages a second", ci=3, long=50, rate_hz=_FULL_HZ, mix=_FULL)
def kill_full_batches(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill workers while full batches are in flight; relays only now and then."""
    killed = 0
    while killed < count:
        time.sleep(random.uniform(*APART_S))
        workers = [name for name in world.fleet.active() if name.startswith("worker-") or random.random() < 0.2]
        killed += world.kill(random.choice(workers))
    return Counter()
