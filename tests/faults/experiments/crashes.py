import time
from collections import Counter
from random import Random

from runtime.crash_points import VARIABLE, CrashPoint
from tests.faults.armed import Start
from tests.faults.experiments.spool import spool_crash
from tests.faults.registry import experiment
from tests.faults.world import World

CRASH_S_MAX = 60.0
"""How long one crash may take, with the pause of the supervisor and the start before it."""
_NTH_MAX = 4
_POLL_S = 0.5

_POINTS = tuple(CrashPoint)
SPOOL = tuple(point for point in _POINTS if point.startswith("spool_"))
RELAY = tuple(point for point in _POINTS if point.startswith("relay_"))
WORKER = tuple(
    point for point in _POINTS[_POINTS.index(CrashPoint.AFTER_DECODE) : _POINTS.index(CrashPoint.BEFORE_ACK) + 1]
)


@experiment("E2", "the end at every crash point", ci=1, long=20)
def every_crash_point(world: World, count: int, random: Random) -> Counter[str]:
    """Let workers and relays come to each of their points `count` times, and the edge's spool to its own."""
    # The edge's events have to arrive, which they do not while every worker ends again and again.
    crashes = Counter({f"crash {point}": spool_crash(world, point, count, random) for point in SPOOL})
    queues = _queues(world, count, random)
    for name, points in queues.items():
        world.fleet.control(name).queue(
            Start(env={VARIABLE: f"{point}:{random.randint(1, _NTH_MAX)}"}) for point in points
        )
        world.kill(name)
    deadline = time.monotonic() + CRASH_S_MAX * max(map(len, queues.values()))
    while any(world.fleet.control(name).waiting for name in queues) or _crashed(world, queues) < sum(
        map(len, queues.values())
    ):
        if time.monotonic() > deadline:
            left = {name: world.fleet.control(name).waiting for name in queues}
            raise TimeoutError(f"not every crash point was reached; starts left: {left}")
        time.sleep(_POLL_S)
    for name in queues:
        crashes += Counter(f"crash {point}" for point in _seen(world, name))
    return crashes


def _queues(world: World, count: int, random: Random) -> dict[str, list[CrashPoint]]:
    """Deal the points out: each worker gets its share of every worker's point, and so the relays."""
    queues: dict[str, list[CrashPoint]] = {}
    for prefix, points in (("worker-", WORKER), ("relay-", RELAY)):
        names = [name for name in world.fleet.active() if name.startswith(prefix)]
        dealt = list(points) * count
        random.shuffle(dealt)
        for index, name in enumerate(names):
            queues[name] = dealt[index :: len(names)]
    return queues


def _crashed(world: World, queues: dict[str, list[CrashPoint]]) -> int:
    return sum(len(_seen(world, name)) for name in queues)


def _seen(world: World, name: str) -> list[str]:
    """Return the points at which the process says that it ended."""
    mark = "ended at the crash point "
    return [line.split(mark)[1].split(",")[0] for line in world.fleet.log(name).splitlines() if mark in line]
