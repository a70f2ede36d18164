import signal
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from random import Random

import psutil

from tests.faults.registry import experiment
from tests.faults.world import READY_S_MAX, FaultsWorld
from tests.waiting import until

SHORT_S, LONG_S = 1.0, 90.0
SLICE_S = 15.0
"""A pause of the short run takes at most so long, which is still far beyond the session of a worker."""
_LONG_FROM = 10
_SERVERS = ("kafka-1", "minio", "postgres")


@experiment("E5", "SIGSTOP and SIGCONT of a worker, relay, broker, MinIO or PostgreSQL", ci=3, long=100)
def pause_processes(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Stop a process and all that it started, and let it go on as if nothing had been."""
    longest_s = LONG_S if count >= _LONG_FROM else SLICE_S
    targets: list[str] = []
    for _ in range(count):
        if not targets:
            targets = ["worker", "relay", *_SERVERS]
            random.shuffle(targets)
        target, seconds = targets.pop(), random.uniform(SHORT_S, longest_s)
        until(partial(pause, world, target, seconds, random), READY_S_MAX, f"a {target} that can be paused")
        world.wait_servers()
        time.sleep(random.uniform(2, 5))
    return Counter()


def pause(world: FaultsWorld, target: str, seconds: float, random: Random) -> bool:
    """Stop one process for so long, of the relays the one that leads; False where none runs just then."""
    try:
        process = _found(world, target, random)
        if process is None:
            return False
        with world.fault(f"pause {target}"):
            _pause(process, seconds)
    except psutil.NoSuchProcess:  # it ended before it could be stopped, so nothing was done to it
        return False
    return True


def _found(world: FaultsWorld, target: str, random: Random) -> psutil.Process | None:
    if target in _SERVERS:
        return world.server(target)
    pids = world.fleet.pids()
    if target == "relay":
        name = world.leader()
    else:
        name = random.choice([process_name for process_name in pids if process_name.startswith(target)] or [None])
    return psutil.Process(pids[name]) if name in pids else None


def _pause(process: psutil.Process, seconds: float) -> None:
    family = [process]
    try:
        process.send_signal(signal.SIGSTOP)
        # PostgreSQL's sessions are processes of their own; a stopped parent starts no more of them.
        family += process.children(recursive=True)
        _all(family[1:], signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        _all(family, signal.SIGCONT)


def _all(family: list[psutil.Process], number: signal.Signals) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
