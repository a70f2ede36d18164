"""The relay with the marks and checkpoints of an earlier moment: what is published already must not come again.

A relay that ends between Kafka's commit and its mark leaves such a catalog, only with fewer rows. It is what a crash
leaves after any number of lost marks, so a whole experiment's announcements go through the relay's first reading again.
"""

from dataclasses import dataclass
from datetime import datetime
from signal import SIGTERM

import psutil

from tests.faults.world import READY_S_MAX, SETTLE_S_MAX, FaultsWorld

_STOPS_S_MAX = 30.0

_REMEMBER = """
select now(), array_agg(topic), array_agg(partition), array_agg(next_offset) from relay_checkpoints
"""
_GO_BACK = """
with unmarked as (
    update outbox set published_at = null where published_at > $1
), older as (
    select * from unnest($2::text[], $3::integer[], $4::bigint[]) as o (topic, partition, next_offset)
), forgotten as (
    delete from relay_checkpoints where (topic, partition) not in (select topic, partition from older)
)
update relay_checkpoints as c set next_offset = o.next_offset
from older as o where (o.topic, o.partition) = (c.topic, c.partition)
"""


@dataclass(frozen=True, slots=True)
class OldCheckpoint:
    """Where the relay was at a moment."""

    at: datetime
    topics: list[str]
    partitions: list[int]
    next_offsets: list[int]


def remember(world: FaultsWorld) -> OldCheckpoint:
    """Return where the relay is now."""
    ((at, topics, partitions, next_offsets),) = world.catalog.fetch(_REMEMBER)
    return OldCheckpoint(at, topics or [], partitions or [], next_offsets or [])


def restart_relay(world: FaultsWorld, old: OldCheckpoint) -> str:
    """Stop the relays, take back what was marked since, start them, and wait; say whether something still waits."""
    relays = [name for name in world.fleet.active() if name.startswith("relay-")]
    with world.quiet():
        for name in relays:
            world.fleet.control(name).park()
        for pid in [pid for name, pid in world.fleet.pids(relays).items() if world.fleet.signal(name, SIGTERM)]:
            _wait_ended(pid)
        world.catalog.fetch(_GO_BACK, old.at, old.topics, old.partitions, old.next_offsets)
        for name in relays:
            world.fleet.control(name).unpark()
        world.fleet.wait_ready(READY_S_MAX)
        if not world.settle():
            return f"something still waits {SETTLE_S_MAX:.0f} s after the relay began at an old checkpoint"
    return ""


def _wait_ended(pid: int) -> None:
    try:
        psutil.Process(pid).wait(_STOPS_S_MAX)
    except psutil.NoSuchProcess:
        return
