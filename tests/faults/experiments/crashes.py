import signal
import time
from collections import Counter
from random import Random

from headrace.runtime.crash_points import VARIABLE, CrashPoint
from tests.faults.armed import Start
from tests.faults.experiments.spool import spool_crash
from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

CRASH_S_MAX = 60.0
"""How long one crash may take, with the pause of the supervisor and the start before it."""
_NTH_MAX = 4
_POLL_S = 0.5
_STILL_S = 25.0
_STILL_WITHOUT_MISSING_S = 10.0

_POINTS = tuple(CrashPoint)
SPOOL = tuple(point for point in _POINTS if point.startswith("spool_"))
RELAY = tuple(point for point in _POINTS if point.startswith("relay_"))
WORKER = tuple(
    point for point in _POINTS[_POINTS.index(CrashPoint.AFTER_DECODE) : _POINTS.index(CrashPoint.BEFORE_ACK) + 1]
)


@experiment("E2", "the end at every crash point", ci=1, long=20)
def every_crash_point(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Let workers and relays come to each of their points `count` times, and the edge's spool to its own."""
    # The edge's events have to arrive, which they do not while every worker ends again and again.
    crashes = Counter({f"crash {point}": spool_crash(world, point, count, random) for point in SPOOL})
    wanted = Counter(dict.fromkeys((*WORKER, *RELAY), count))
    deadline = time.monotonic() + CRASH_S_MAX * wanted.total()
    while missing := wanted - _seen(world):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not every crash point was reached; still missing: {dict(missing)}")
        _arm(world, missing, random)
        _wait_until_spent(world, wanted)
    return crashes + Counter({f"crash {point}": times for point, times in _seen(world).items()})


def _arm(world: FaultsWorld, points: Counter[CrashPoint], random: Random) -> None:
    """Deal the points out: each worker gets its share of every worker's point, and so the relays."""
    for prefix, own in (("worker-", WORKER), ("relay-", RELAY)):
        names = [name for name in world.fleet.active() if name.startswith(prefix)]
        dealt = [point for point in points.elements() if point in own]
        random.shuffle(dealt)
        for index, name in enumerate(names):
            # A single point goes to all of them: of two relays it is never known which one will lead.
            share = dealt[index :: len(names)] if len(dealt) >= len(names) else dealt
            if starts := [_start(point, random) for point in share]:
                world.fleet.control(name).queue(starts)
                # Only so that the first of these starts comes; what is counted is where they end.
                with world.quiet():
                    world.fleet.signal(name, signal.SIGKILL)


def _start(point: CrashPoint, random: Random) -> Start:
    return Start(env={VARIABLE: f"{point}:{random.randint(1, _NTH_MAX)}"})


def _wait_until_spent(world: FaultsWorld, wanted: Counter[CrashPoint]) -> None:
    """Wait until nothing is laid down any more and nobody has ended for a while, a shorter one if nothing is missing.

    Some starts are spent without coming to their point: a process may have no work, or end for another reason.
    """
    last, since = _seen(world), time.monotonic()
    while time.monotonic() - since < (_STILL_S if wanted - last else _STILL_WITHOUT_MISSING_S) or any(
        world.fleet.control(name).waiting for name in world.fleet.active()
    ):
        time.sleep(_POLL_S)
        if (seen := _seen(world)) != last:
            last, since = seen, time.monotonic()
        elif time.monotonic() - since > CRASH_S_MAX:
            return


def _seen(world: FaultsWorld) -> Counter[CrashPoint]:
    """Return the points at which processes of the service say that they ended."""
    mark = "ended at the crash point "
    lines = (line for name in world.fleet.members for line in world.fleet.log(name).splitlines() if mark in line)
    return Counter(CrashPoint(line.split(mark)[1].split(",")[0]) for line in lines)
