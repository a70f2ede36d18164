import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

from headrace.producers.spool.state import SpoolState
from headrace.runtime.crash_points import VARIABLE, CrashPoint
from headrace.runtime.errors import Exit
from tests.faults.acks import read_acks
from tests.faults.edge import DRAIN_S_MAX, SYNCED, THREAD_NUMBERS, THREADS
from tests.faults.fleet import ROOT
from tests.faults.own import own_file, wait_recorded
from tests.faults.registry import experiment
from tests.faults.tearing import lose_power, tear
from tests.faults.world import FaultsWorld
from tests.processes import ends_with_this_process, environment_of, free_port

_STARTED_S_MAX = 180.0
_CRASH_S_MAX = 180.0
_ROUND_NUMBERS = 10_000
SEEDS = 1_000_000
"""What an edge's seed is drawn from."""
_NTH_MAX = 60
_NTH_TOLD = THREADS + 1
"""As many events in the spool, and one of the threads has gone on to its next, so that an event was told durable."""
_ROUNDS_OF = 3
_PUBLISHING_S = (0.2, 1.5)
_AWAY_SHARE = 0.4
_ARMED_SHARE = 0.6
_POWER_SHARE = 0.25
_POLL_S = 0.02


class Edge:
    """A spool, and the processes that use it one after another."""

    def __init__(self, world: FaultsWorld, name: str, seed: int) -> None:
        """Give it a directory of its own; nothing is started yet. `seed` is that of the events."""
        self._world = world
        self._seed = seed
        self._acks, self._first = own_file(world, name)
        self.spool = self._acks.with_suffix(".spool")
        self._told = self._acks.with_suffix(".durable")
        self._told.touch()
        self._rounds = 0

    def start(self, count: int, *, crash_at: str = "", away: bool = False) -> "subprocess.Popen[bytes]":
        """Start a process that publishes `count` events from each thread; `away`: Kafka cannot be reached."""
        first = self._first + self._rounds * _ROUND_NUMBERS
        self._rounds += 1
        assert self._rounds * _ROUND_NUMBERS < THREAD_NUMBERS
        env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        env |= environment_of(self._world.settings) | ({VARIABLE: crash_at} if crash_at else {})
        if away:
            env["HEADRACE_KAFKA_BOOTSTRAP"] = f"127.0.0.1:{free_port()}"
        args = (self.spool, self._acks, self._told, self._seed, first, min(count, _ROUND_NUMBERS))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ends_with_this_process([sys.executable, "-m", "tests.faults.edge", *args]),
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> Path:
        """What its processes wrote."""
        return self._acks.with_suffix(".log")

    def durable(self) -> set[int]:
        """The numbers of the events that the spool said to be durable."""
        lines = self._told.read_text().split("\n")
        return {int(line) for line in lines[:-1]}

    def synced(self) -> dict[int, int]:
        """How much of each file was made durable, by its inode."""
        lines = self._told.with_suffix(SYNCED).read_text().split("\n")
        return {int(inode): int(size) for inode, size in (line.split() for line in lines[:-1])}

    def wait_more(self, process: "subprocess.Popen[bytes]", since: int) -> None:
        """Wait until more events are durable than `since`; raises AssertionError where the process ended before."""
        deadline = time.monotonic() + _STARTED_S_MAX
        while len(self.durable()) <= since:
            assert process.poll() is None, f"the edge ended with {process.returncode}: {self.end_of_log()}"
            assert time.monotonic() < deadline, f"the edge published nothing in {_STARTED_S_MAX:.0f} s"
            time.sleep(_POLL_S)

    def crash(self, point: CrashPoint, nth: int, *, away: bool = False) -> None:
        """Let a process publish until it ends at a crash point; raises AssertionError where it ended otherwise."""
        process = self.start(_ROUND_NUMBERS, crash_at=f"{point}:{nth}", away=away)
        try:
            ended = process.wait(_CRASH_S_MAX)
        finally:
            end(process)
        assert ended == Exit.CRASHED, f"the edge ended with {ended} instead of at {point}: {self.end_of_log()}"

    def bring_home(self) -> None:
        """Let a process empty the spool, and wait until all that was durable, which is something, is in the catalog."""
        assert self.durable(), "nothing was durable, so that nothing could have been lost"
        process = self.start(0)
        try:
            ended = process.wait(DRAIN_S_MAX + _STARTED_S_MAX)
        finally:
            end(process)
        assert ended == Exit.OK, f"the spool could not be emptied, {ended}: {self.end_of_log()}"
        attempts, durable = read_acks(self._acks).attempts, self.durable()
        wait_recorded(self._world, (attempts[number] for number in durable))

    def damaged(self) -> int:
        """How many events the spool says it could not read again."""
        state = SpoolState.read(self.spool)
        assert state is not None, "the state of the spool is gone"
        return state.damaged

    def end_of_log(self) -> str:
        """What its processes wrote last."""
        return self.log.read_text(errors="replace")[-600:]


@experiment("E11", "a spool torn at a random byte after its process was killed", ci=10, long=50)
def tear_spools(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill the edge and damage what its spool had not said to be durable; everything else has to arrive."""
    edge, damages, damaged = Edge(world, "torn", random.randrange(SEEDS)), Counter[str](), 0
    for _ in range(_ROUNDS_OF * count):
        if damages.total() == count:
            break
        _killed(edge, random)
        if random.random() < _POWER_SHARE and lose_power(edge.spool, edge.synced()):
            damages["spool power lost"] += 1
            continue
        torn = tear(edge.spool, edge.durable(), random)
        if torn is not None:
            damages[f"spool {torn.how}"] += 1
            damaged += torn.damaged
    assert damages.total() == count, f"only {damages.total()} of {count} times there was something to tear"
    edge.bring_home()
    counted = edge.damaged()
    assert counted >= damaged, f"{damaged} events were damaged, the spool counted {counted}"
    return damages


def spool_crash(world: FaultsWorld, point: CrashPoint, count: int, random: Random) -> int:
    """End the edge `count` times at a crash point of the spool; return how often. What was durable has to arrive."""
    edge = Edge(world, str(point), random.randrange(SEEDS))
    for _ in range(count):
        if point is CrashPoint.SPOOL_BEFORE_DELETE:
            nth = random.randint(1, 2)
        else:
            nth = random.randint(1 if edge.durable() else _NTH_TOLD, _NTH_MAX)
        edge.crash(point, nth)
    edge.bring_home()
    return count


def end(process: "subprocess.Popen[bytes]") -> None:
    """Make sure that a process is gone."""
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()


def _killed(edge: Edge, random: Random) -> None:
    before, away = len(edge.durable()), random.random() < _AWAY_SHARE
    if random.random() < _ARMED_SHARE:
        # Ended before its fsync it leaves the most that can be torn.
        nth = random.randint(2 if before else _NTH_TOLD, _NTH_MAX)
        edge.crash(CrashPoint.SPOOL_BEFORE_FSYNC, nth, away=away)
        return
    process = edge.start(_ROUND_NUMBERS, away=away)
    try:
        edge.wait_more(process, before)
        time.sleep(random.uniform(*_PUBLISHING_S))
    finally:
        end(process)
