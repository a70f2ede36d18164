import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import psutil

from tests.faults.experiments.pauses import pause
from tests.faults.passed_on import wait_passed_on
from tests.faults.registry import experiment
from tests.faults.world import READY_S_MAX, FaultsWorld

FAULTS_S = 300.0
EVERY_S = 10.0
_LASTS_S = 8.0


@experiment("E18", "mixed: every 10 s a random subset of faults for 300 s", ci=0, long=30, rate_hz=15)
def mixed(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Draw a subset of the faults every ten seconds, also none; all of them at once where it comes to that."""
    with ThreadPoolExecutor(len(_FAULTS)) as pool:
        for _ in range(count):
            end = time.monotonic() + FAULTS_S
            while time.monotonic() < end:
                began = time.monotonic()
                drawn = [fault_of for fault_of in _FAULTS if random.random() < 0.25]
                for happening in [pool.submit(fault_of, world, Random(random.random())) for fault_of in drawn]:
                    happening.result()
                time.sleep(max(0.0, began + EVERY_S - time.monotonic()))
            world.wait_servers()
            world.fleet.wait_ready(READY_S_MAX)
            # The workload goes on, so there is no moment at which nothing waits at all.
            wait_passed_on(world)
    return Counter()


def _kill_one(world: FaultsWorld, random: Random) -> None:
    world.kill(random.choice(world.fleet.active()))


def _kill_server(name: str) -> Callable[[FaultsWorld, Random], None]:
    def kill(world: FaultsWorld, _random: Random) -> None:
        process = world.server(name)
        if process is not None:
            # Where it is gone already, by another of the faults, nothing happened and nothing is counted.
            with suppress(psutil.NoSuchProcess), world.fault(f"SIGKILL {name}"):
                process.send_signal(signal.SIGQUIT if name == "postgres" else signal.SIGKILL)

    return kill


def _pause_one(world: FaultsWorld, random: Random) -> None:
    pause(
        world, random.choice(("worker", "relay", "minio", "postgres", "kafka-1")), random.uniform(1, _LASTS_S), random
    )


def _cut(proxy: str) -> Callable[[FaultsWorld, Random], None]:
    def cut(world: FaultsWorld, random: Random) -> None:
        with world.fault(f"{proxy} black hole"), world.proxies.black_hole(proxy):
            time.sleep(random.uniform(1, _LASTS_S))

    return cut


_FAULTS: tuple[Callable[[FaultsWorld, Random], None], ...] = (
    _kill_one,
    _pause_one,
    *(_kill_server(name) for name in ("kafka-1", "minio", "postgres")),
    *(_cut(proxy) for proxy in ("postgres", "store")),
)
