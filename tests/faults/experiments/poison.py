from collections import Counter
from dataclasses import replace
from random import Random

from tests.faults.acks import Acks
from tests.faults.own import ARRIVED_S_MAX, own_file, wait_recorded, wait_rejected
from tests.faults.plan import MIX, planned
from tests.faults.registry import experiment
from tests.faults.workload import publish_all
from tests.faults.world import FaultsWorld

IN_A_ROW_SHORT, IN_A_ROW_LONG = 40, 1000
_LONG_FROM = 10_000
_RATE_HZ = 400.0
_EVENT_BYTES_MAX = 20_000  # as many as these should not take hours


@experiment("E13", "poison: two in a hundred, and many in a row", ci=300, long=50_000, of_messages=True)
def poison_topics(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Publish `count` messages of which 2 % are poison, then poison alone; no worker may halt over it."""
    in_a_row = IN_A_ROW_LONG if count >= _LONG_FROM else IN_A_ROW_SHORT
    mixed = replace(MIX, poison=0.02, wrong_digests=0.01, bytes_max=_EVENT_BYTES_MAX, names="mixed-")
    alone = replace(mixed, poison=1.0, wrong_digests=0.0, names="alone-")
    restarts = _restarts(world)
    poisoned: Counter[str] = Counter()
    for mix, number in ((mixed, count), (alone, in_a_row)):
        path, first = own_file(world, mix.names.rstrip("-"))
        seed = random.randrange(1_000_000)
        acks = publish_all(world.settings, path, planned(seed, first=first, mix=mix), count=number, rate_hz=_RATE_HZ)
        assert len(acks.acks) == number, f"{number - len(acks.acks)} of {number} messages were not acknowledged"
        seconds = ARRIVED_S_MAX + number / 50
        wait_recorded(world, acks.attempts.values(), seconds)
        wait_rejected(world, acks, seconds)
        poisoned += _by_code(acks)
    # So much poison is less than the quota, so nobody has a reason to end.
    assert _restarts(world) == restarts, f"a worker ended over it: {_exits(world)}"
    return poisoned


def _by_code(acks: Acks) -> Counter[str]:
    return Counter(f"poison {attempt.expect}" for attempt in acks.attempts.values() if attempt.expect is not None)


def _restarts(world: FaultsWorld) -> dict[str, int]:
    return {name: record.restarts for name, record in world.fleet.records().items()}


def _exits(world: FaultsWorld) -> dict[str, str | None]:
    return {name: record.last_exit for name, record in world.fleet.records().items() if record.last_exit}
