"""Everything that the checker needs, as plain values: what was attempted and acknowledged, and what became of it.

Times are microseconds since 1970; digests are 64 hexadecimal digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from headrace.schemas.events import Ingested, Kind
from headrace.schemas.headers import Redrive
from tests.faults.acks import Ack, Attempt, Description, Place


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it stands in an input topic. What it holds is told only where a dead letter speaks of it."""

    key: bytes | None
    redrive: Redrive | None = None
    value_digest: str | None = None
    headers: bytes = b"[]"
    timestamp_us: int = 0


@dataclass(frozen=True, slots=True)
class ObservedSighting:
    """A row of `sightings`.

    `seen_at_us` is when the transaction began that wrote it (`now()` in PostgreSQL), not when it was committed: of two
    transactions that overlap it does not tell which one was first to be seen, and all rows of one say the same.
    """

    place: Place
    record_id: UUID
    site: str
    source_id: str
    sequence: int
    seen_at_us: int
    captured_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `records`."""

    record_id: UUID
    kind: Kind
    digest: str
    size_bytes: int
    source_id: str
    sequence: int
    ingested_at_us: int
    says: Description


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What the store really holds where a blob should be."""

    size_bytes: int
    digest: str


class BytesAt(NamedTuple):
    """Where bytes are: a whole object where there is no offset, or a part of a pack; in the store or in the archive."""

    store_key: str
    store_offset: int | None
    size_bytes: int
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """A row of `blobs`, and what is there; None where nothing is. `moved`: it is archived, or was restored."""

    digest: str
    size_bytes: int
    store_key: str
    store_offset: int | None
    found: StoredBytes | None
    moved: bool = False

    @property
    def at(self) -> BytesAt:
        """Where its bytes are."""
        return BytesAt(self.store_key, self.store_offset, self.size_bytes)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the store."""

    key: str
    size_bytes: int
    modified_at_us: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A row of `dead_letters`; `value_digest` is None where there is no value."""

    letter_id: UUID
    code: str
    reason: str
    place: Place
    key: bytes | None
    value_digest: str | None
    headers: bytes
    redriven_as: UUID | None = None
    timestamp_us: int = 0
    rejected_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ObservedRedrive:
    """A row of `redrives`."""

    published: bool
    ended: bool
    record_id: UUID | None


@dataclass(frozen=True, slots=True)
class ObservedAnnouncement:
    """A message of `ingested.*`."""

    place: Place
    event: Ingested

    @property
    def at(self) -> BytesAt:
        """Where it says that the bytes are."""
        return BytesAt(self.event.store_key, self.event.store_offset, self.event.size_bytes)


@dataclass(frozen=True, slots=True)
class ObservedLetter:
    """A message of `deadletters.v1`."""

    place: Place
    event_id: str
    code: str
    of: Place
    value_digest: str | None
    key: bytes | None
    headers: bytes
    reason: str
    timestamp_us: int = 0
    rejected_at_us: int = 0


class LostOffsets(NamedTuple):
    """A row of `lost_ranges`: offsets that retention deleted before they were ingested, both ends included."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class ReceivedMessages:
    """What a `read_committed` reader heard, in its order. `unreadable` says of each other message where it stands."""

    announcements: tuple[ObservedAnnouncement, ...] = ()
    letters: tuple[ObservedLetter, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchFindings:
    """What was seen while it ran.

    `i12` is None where no look found work waiting while everything was up; `looks_at_work` counts those that did.
    `i13` is None, and `not_judged` says why, where there was too little to judge by.
    """

    i12: tuple[str, ...] | None = None
    i13: tuple[str, ...] | None = None
    i14: tuple[str, ...] = ()
    samples: int = 0
    skipped: int = 0
    looks_at_work: int = 0
    judged: tuple[str, ...] = ()
    not_judged: Mapping[str, str] = field(default_factory=dict)
    growth_mib_per_hour: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """Return the figures for the line of a result."""
        return {
            "samples": self.samples,
            "skipped": self.skipped,
            "looks_at_work": self.looks_at_work,
            "judged": list(self.judged),
            "not_judged": dict(self.not_judged),
            "growth_mib_per_hour": dict(self.growth_mib_per_hour),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Every source, read once everything had come to rest. `learned` are ids of events that a recovery kept back."""

    attempts: Mapping[int, Attempt]
    acks: tuple[Ack, ...]
    messages: Mapping[Place, Message]
    sightings: tuple[ObservedSighting, ...]
    records: Mapping[UUID, Record]
    blobs: Mapping[str, Blob]
    objects: tuple[StoredObject, ...]
    dead_letters: tuple[Letter, ...]
    redrives: Mapping[Redrive, ObservedRedrive]
    unpublished: int
    live: ReceivedMessages
    afterwards: ReceivedMessages
    committed: Mapping[Partition, int]
    watch: WatchFindings
    gathered_at_us: int
    announced_bytes: Mapping[BytesAt, StoredBytes | None] = field(default_factory=dict)
    begins: Mapping[Partition, int] = field(default_factory=dict)
    lost: tuple[LostOffsets, ...] = ()
    learned: frozenset[str] = frozenset()

    @property
    def deliveries(self) -> int:
        """How many messages left a sighting or a dead letter."""
        return len(self.sightings) + len(self.dead_letters)

    @property
    def distinct(self) -> int:
        """How many different things they were."""
        return len(self.records) + len(self.dead_letters)

    @property
    def announced(self) -> int:
        """How many announcements of records the reader afterwards heard."""
        return len(self.afterwards.announcements)
