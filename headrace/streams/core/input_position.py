"""What the offsets of an input partition say about catalog and topic. Pure.

A worker tells Kafka only what the catalog has, so `next_offset >= committed`. Three things break the order of
`low <= committed <= next_offset <= end`, and each of them has another meaning:

* committed > next_offset: the catalog is an older one than the one that was there. It lacks what was ingested since.
* low > next_offset: retention deleted messages that nobody had ingested.
* next_offset > end: the topic is another one than the one that was there. Its id says so too, also where the new topic
  has grown beyond the old offset.

Offsets that no consumer gets (transaction markers, aborted and compacted messages) do not matter: `committed` stands
behind a message that was ingested, and `next_offset` passes markers at the end of a partition as they are seen there.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPosition:
    """A partition's first offset and its end, the group's offset, and the catalog's; None where there is none.

    `anew` means that the topic has another id than the one that was ingested, so that no old offset means anything.

    Rows of the catalog reach to `seen_until`: a worker of an older version ingests without moving `next_offset`.
    """

    low: int
    end: int
    committed: int | None
    next_offset: int | None
    seen_until: int | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Continues:
    """The partition goes on at `next_offset`; `lost` was deleted before it was ingested, and may be empty.

    With `restarted` the topic is a new or a shortened one: the catalog's offset is to be set back, and a group's offset
    behind the end means nothing.
    """

    next_offset: int
    lost: range = range(0)
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class CatalogBehind:
    """The group has passed messages that the catalog lacks: those from `next_offset` to below `committed`."""

    next_offset: int
    committed: int


Verdict: TypeAlias = Continues | CatalogBehind


def judge(position: InputPosition) -> Verdict:
    """Decide what follows from the offsets of a partition."""
    low, end = position.low, position.end
    if position.anew:
        return _continues(0, low, restarted=True)
    void = position.committed is not None and position.committed > end
    committed = None if void else position.committed
    if position.next_offset is None:
        # The first assignment since the catalog keeps this: what the group says is believed.
        return _continues(low if committed is None else committed, low, restarted=void)
    if position.next_offset > end:
        return Continues(low if committed is None else max(low, committed), restarted=True)
    if committed is not None and committed > position.next_offset:
        if committed > (position.seen_until or 0):
            return CatalogBehind(position.next_offset, committed)
        return _continues(committed, low)
    return _continues(position.next_offset, low, restarted=void)


def _continues(next_offset: int, low: int, *, restarted: bool = False) -> Continues:
    return Continues(max(next_offset, low), range(next_offset, max(next_offset, low)), restarted)
