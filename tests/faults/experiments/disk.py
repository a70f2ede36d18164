import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random

from headrace.runtime.errors import Exit
from tests.faults.experiments.spool import SEEDS, Edge, end
from tests.faults.possible import NotPossibleError
from tests.faults.registry import experiment
from tests.faults.small_disk import SmallDisk
from tests.faults.world import FaultsWorld, Shape
from tests.waiting import until

SIZE_MIB = 1024  # MinIO uses no smaller one
_FULL_S = (2.0, 8.0)
"""How long a disk stays full after its part was seen to fail."""
_FAILS_S_MAX = 60.0
_APART_S = (1.0, 3.0)
_EDGE_EVENTS = 2000
_FULL = "No space left on device"
_STORE_FULL = "StorageFull"
_SPOOL_FULL = f"spool_write_failed: the spool cannot use its disk: {_FULL}"
_SERVERS = {"minio": "minio", "postgres": "postgres", "kafka": "kafka-1"}
_PARTS = ("minio", "postgres", "kafka", "spool")


@experiment(
    "E10",
    "disk full: store, WAL, broker, spool",
    ci=1,
    long=25,
    shape=Shape(small_disk=frozenset(_PARTS), small_disk_mib=SIZE_MIB),
)
def fill_disks(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Fill the disk of one part after another until it fails, go on publishing, and give the room back."""
    if world.disks is None:
        raise NotPossibleError("this world has no small disks")
    for number in range(count):
        part = _PARTS[number % len(_PARTS)]
        disk, seconds = world.disks[part], random.uniform(*_FULL_S)
        with world.fault(f"{part} disk full"):
            if part == "spool":
                _fill_spool(Edge(world, "full", random.randrange(SEEDS)), disk, seconds)
            else:
                _fill_server(world, part, disk, seconds)
            world.wait_servers()
        time.sleep(random.uniform(*_APART_S))
    return Counter()


def _fill_server(world: FaultsWorld, part: str, disk: SmallDisk, seconds: float) -> None:
    failures = _failures(world, part)
    before = failures()
    try:
        _fill_until(disk, lambda: failures() > before, f"{part} to fail on a full disk")
        disk.keep_full(seconds)
    finally:
        disk.free()


def _fill_spool(edge: Edge, disk: SmallDisk, seconds: float) -> None:
    edge.spool = disk.path / f"spool-{time.monotonic_ns()}"
    process = edge.start(_EDGE_EVENTS)
    try:
        edge.wait_more(process, 0)
        _fill_until(disk, lambda: _refused(edge, process), "the spool to refuse an event")
        disk.keep_full(seconds)
    finally:
        disk.free()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        end(process)
    edge.bring_home()


def _fill_until(disk: SmallDisk, failed: Callable[[], bool], what: str) -> None:
    def full_and_failed() -> bool:
        disk.fill()
        return failed()

    until(full_and_failed, _FAILS_S_MAX, what)


def _failures(world: FaultsWorld, part: str) -> Callable[[], int]:
    """How often a server said that its disk was full; MinIO says it to those that ask, who log it."""
    if part == "minio":
        return lambda: sum(world.fleet.log(name).count(_STORE_FULL) for name in world.fleet.members)
    log = world.stack.state_dir / "logs" / f"{_SERVERS[part]}.log"
    return lambda: log.read_text(errors="replace").count(_FULL)


def _refused(edge: Edge, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the spool said that its disk is full; raises AssertionError where the edge ended for anything else."""
    ended = process.poll()  # before its log is read, so that all it had to say is in there
    refused = _SPOOL_FULL in edge.log.read_text(errors="replace")
    # Its threads end with what was refused, and so may the process: with whatever Kafka has by then.
    as_refused = ended is None or (refused and ended in {Exit.OK, Exit.FAILED})
    assert as_refused, f"the edge ended with {ended} and was {'' if refused else 'never '}refused: {edge.end_of_log()}"
    return refused
