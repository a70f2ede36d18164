"""What was observed, arranged for the questions that the invariants ask."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from headrace.schemas.digest import event_id, sha256_hex
from tests.faults.acks import Attempt, Place
from tests.faults.observed import Letter, Observed, ObservedSighting, Partition

_EMPTY = sha256_hex(b"")


class Lookup:
    """Everything observed, by place, by record and by source."""

    def __init__(self, observed: Observed) -> None:
        self.all = observed
        self.sightings_at: Mapping[Place, Sequence[ObservedSighting]] = _by_place(observed.sightings)
        self.letters_at: Mapping[Place, Letter] = {letter.place: letter for letter in observed.dead_letters}
        self.letters: Mapping[UUID, Letter] = {letter.letter_id: letter for letter in observed.dead_letters}
        self.acked: list[tuple[Place, Attempt]] = [
            (ack.place, observed.attempts[ack.number]) for ack in observed.acks if not self._is_lost(ack.place)
        ]
        self.acked_at: Mapping[Place, Attempt] = dict(self.acked)
        self.attempted: dict[UUID, Attempt] = {
            attempt.record_id: attempt for attempt in observed.attempts.values() if attempt.record_id is not None
        }
        self.attempts_of: Mapping[UUID, Sequence[Attempt]] = _by_record(observed.attempts.values())
        # Where a message stands whose acknowledgement was lost nobody knows; what it says tells whose it is.
        self._poison: frozenset[tuple[str, str, str]] = frozenset(
            (attempt.topic, attempt.expect, attempt.digest)
            for attempt in observed.attempts.values()
            if attempt.expect is not None
        )
        self.redriven: frozenset[UUID] = frozenset(
            letter.redriven_as for letter in observed.dead_letters if letter.redriven_as is not None
        )
        self.redriven_from: frozenset[Place] = frozenset(
            letter.place for letter in observed.dead_letters if letter.redriven_as is not None
        )

    def is_deleted(self, place: Place) -> bool:
        """Whether retention deleted what stood there."""
        return place.offset < self.all.begins.get(Partition(place.topic, place.partition), 0)

    def _is_lost(self, place: Place) -> bool:
        """Whether retention deleted a message, and the catalog says so."""
        return self.is_deleted(place) and any(
            (lost.topic, lost.partition) == (place.topic, place.partition)
            and lost.first_offset <= place.offset <= lost.last_offset
            for lost in self.all.lost
        )

    def may_be_recorded(self, record: UUID) -> bool:
        """Whether somebody tried to publish it, or it is what a dead letter became."""
        return record in self.attempted or record in self.redriven

    def may_be_refused(self, letter: Letter) -> bool:
        """Whether somebody tried to publish these very bytes there, to be refused so; no value counts as empty."""
        return (letter.place.topic, letter.code, letter.value_digest or _EMPTY) in self._poison

    def finished(self, place: Place) -> bool:
        """Whether a message left what it must; a redriven one leaves it where it first stood."""
        if place in self.sightings_at or place in self.letters_at:
            return True
        redrive = self.all.messages[place].redrive
        row = self.all.redrives.get(redrive) if redrive is not None else None
        return row is not None and row.ended

    def to_be_announced(self) -> dict[str, str]:
        """Return the event id of each record that must be announced, also to a further site, and what to call it."""
        records = {attempt.record_id for _, attempt in self.acked if attempt.record_id is not None}
        records |= {record for record in self.all.records if self.may_be_recorded(record)} | self.redriven
        further = {
            (sighting.record_id, sighting.site)
            for sighting in self.all.sightings
            if (record := self.all.records.get(sighting.record_id)) is not None and record.says.site != sighting.site
        }
        return {str(event_id(record)): f"record {record}" for record in records} | {
            str(event_id(record, site)): f"record {record} of {site}" for record, site in further if record in records
        }

    def announced_before(self) -> set[str]:
        """Return ids that a recovery learned: in the catalog before, another site may have been a record's first."""
        ids = {str(event_id(sighting.record_id, sighting.site)) for sighting in self.all.sightings}
        return ids & self.all.learned


def _by_place(sightings: Sequence[ObservedSighting]) -> dict[Place, list[ObservedSighting]]:
    by_place: dict[Place, list[ObservedSighting]] = defaultdict(list)
    for sighting in sightings:
        by_place[sighting.place].append(sighting)
    return dict(by_place)


def _by_record(attempts: Iterable[Attempt]) -> dict[UUID, list[Attempt]]:
    by_record: dict[UUID, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.record_id is not None:
            by_record[attempt.record_id].append(attempt)
    return dict(by_record)


def at(place: Place) -> str:
    """Return a place as people read it."""
    return f"{place.topic}/{place.partition} offset {place.offset}"
