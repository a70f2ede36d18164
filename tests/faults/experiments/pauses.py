import signal
import time
from collections import Counter
from contextlib import suppress
from random import Random

import psutil

from tests.faults.registry import experiment
from tests.faults.world import World

SHORT_S, LONG_S = 1.0, 90.0
SLICE_S = 15.0
"""How long a pause of the short run takes at the most; still far beyond the session of a worker."""
_LONG_FROM = 10
_SERVERS = ("kafka-1", "minio", "postgres")


@experiment("E5", "SIGSTOP and SIGCONT of a worker, relay, broker, MinIO or PostgreSQL", ci=3, long=100)
def pause_processes(world: World, count: int, random: Random) -> Counter[str]:
    """Stop a process and all that it started, and let it go on as if nothing had been."""
    longest_s = LONG_S if count >= _LONG_FROM else SLICE_S
    targets: list[str] = []
    for _ in range(count):
        if not targets:
            targets = ["worker", "relay", *_SERVERS]
            random.shuffle(targets)
        pause(world, targets.pop(), random.uniform(SHORT_S, longest_s), random)
        world.wait_servers()
        time.sleep(random.uniform(2, 5))
    return Counter()


def pause(world: World, target: str, seconds: float, random: Random) -> None:
    """Stop one process for so long."""
    if target in _SERVERS:
        found = world.server(target)
    else:
        names = [name for name in world.fleet.pids() if name.startswith(target)]
        found = psutil.Process(world.fleet.pids()[random.choice(names)]) if names else None
    if found is None:
        return
    # PostgreSQL's sessions are processes of their own.
    family = [found, *found.children(recursive=True)]
    with world.fault(f"pause {target}"):
        _all(family, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            _all(family, signal.SIGCONT)


def _all(family: list[psutil.Process], number: signal.Signals) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
