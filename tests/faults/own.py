"""Messages that an experiment publishes itself, beside the workload's; the checker has to know of them too."""

from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID

from tests.faults.acks import Acks, Attempt, Place, read_acks
from tests.faults.world import FaultsWorld
from tests.waiting import until

PATTERN = "own-*.acks"
"""The files, in the world's directory, in which experiments take such messages down."""
ARRIVED_S_MAX = 180.0
"""How long what is acknowledged may take to be in the catalog, with processes killed all the while."""
_FIRST = 10_000_000_000  # the workloads' own numbers stay below
_APART = 10_000_000
_ASKED_AT_ONCE = 5000


def own_file(world: FaultsWorld, name: str) -> tuple[Path, int]:
    """Return a file of acknowledgements of its own for an experiment, and the first number that is its own."""
    used = len(list(world.directory.glob(PATTERN)))
    path = world.directory / f"own-{used:04d}-{name}.acks"
    path.touch()
    return path, _FIRST + used * _APART


def read_own(world: FaultsWorld) -> list[Acks]:
    """Return everything that experiments published themselves until now."""
    return [read_acks(path) for path in sorted(world.directory.glob(PATTERN))]


def wait_recorded(world: FaultsWorld, attempts: Iterable[Attempt], seconds: float = ARRIVED_S_MAX) -> None:
    """Wait until each of them is in the catalog; raises AssertionError with those that are not."""
    missing = {attempt.record_id: attempt for attempt in attempts if attempt.record_id is not None}

    def all_there() -> bool:
        for record in _recorded(world, list(missing)):
            del missing[record]
        return not missing

    try:
        until(lambda: _answered(all_there), seconds, "what was durable to be in the catalog")
    except AssertionError:
        some = [f"{attempt.source_id} {attempt.sequence}" for attempt in list(missing.values())[:5]]
        raise AssertionError(f"{len(missing)} never came to be in the catalog, among them {', '.join(some)}") from None


def wait_rejected(world: FaultsWorld, acks: Acks, seconds: float = ARRIVED_S_MAX) -> None:
    """Wait until each acknowledged message that can never be ingested is a dead letter with the code that it must have.

    Raises:
        AssertionError: some are none, or have another code.
    """
    expected = {
        ack.place: acks.attempts[ack.number].expect for ack in acks.acks if acks.attempts[ack.number].expect is not None
    }
    codes: dict[Place, str] = {}

    def all_there() -> bool:
        rows = world.catalog.fetch('select topic, partition, "offset", code from dead_letters')
        codes.update({Place(row[0], row[1], row[2]): row[3] for row in rows})
        return expected.keys() <= codes.keys()

    until(lambda: _answered(all_there), seconds, f"{len(expected)} dead letters")
    wrong = [f"{place}: {codes[place]} instead of {code}" for place, code in expected.items() if codes[place] != code]
    assert not wrong, f"{len(wrong)} dead letters have another code, among them {wrong[0]}"


def _recorded(world: FaultsWorld, records: list[UUID]) -> list[UUID]:
    recorded: list[UUID] = []
    for start in range(0, len(records), _ASKED_AT_ONCE):
        some = records[start : start + _ASKED_AT_ONCE]
        rows = world.catalog.fetch("select record_id from records where record_id = any($1::uuid[])", some)
        recorded += [UUID(str(row[0])) for row in rows]
    return recorded


def _answered(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError:  # PostgreSQL may be away just then
        return False
