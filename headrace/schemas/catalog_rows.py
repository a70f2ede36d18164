"""The rows of the catalog as plain values. Times are microseconds since 1970, UTC; digests 32 bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from headrace.schemas.events import Kind
from headrace.schemas.topics import PartitionKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRow:
    """The location of a blob in the store: an object of its own, or `size_bytes` from `store_offset` of a pack."""

    digest: bytes
    size_bytes: int
    media_type: str
    store_key: str
    store_offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """One distinct event. `attributes` is a JSON object without U+0000; `clip_sha256` is hexadecimal, an LDO's clip."""

    record_id: UUID
    kind: Kind
    digest: bytes
    site: str
    source_id: str
    captured_at_us: int
    sequence: int
    media_type: str
    size_bytes: int
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    ldo_id: str | None = None
    code: str | None = None
    about: str | None = None
    attributes: bytes = b"{}"
    traceparent: str | None = None
    clip_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class SightingKey:
    """A record, and the source that may have sent it."""

    record_id: UUID
    site: str
    source_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SightingRow:
    """One delivery of a record. `index` distinguishes the items of one message.

    Of a mirrored message, partition and offset are those at its site, and `mirrored_offset` is the one here.
    """

    topic: str
    partition: int
    offset: int
    index: int = 0
    record_id: UUID
    site: str
    source_id: str
    captured_at_us: int
    sequence: int
    mirrored_offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """A message that can never be ingested. `headers` is a JSON array of [name, base64 value] pairs."""

    dead_letter_id: UUID
    code: str
    reason: str
    topic: str
    partition: int
    offset: int
    message_timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: bytes = b"[]"
    site: str | None = None
    source_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRow:
    """The outcome of a redriven dead letter: a record, or another rejection."""

    dead_letter_id: UUID
    attempt: int
    record_id: UUID | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """What the spool of a source has lost since it was created: events of this source, and damaged ones of any."""

    site: str
    source_id: str
    spool: str
    dropped: int
    damaged: int


@dataclass(frozen=True, slots=True)
class Original:
    """The original position of the message that this attempt redrives."""

    attempt: int
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """A record whose bytes a site has, at this place of its store."""

    record_id: UUID
    kind: Kind
    site: str
    digest: bytes
    size_bytes: int
    media_type: str
    store_key: str
    store_offset: int | None = None


OffsetRun: TypeAlias = tuple[int, int]
"""The first and the last of offsets that follow one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """The rows of one transaction, each list in the order of the messages.

    `collection_epoch` was read from the catalog before the first of the batch's objects was put
    (`headrace/store/catalog/orphan_gc.py`). `progress` is the offset after the batch's last message of each (topic,
    partition). `origins` are the offsets at the site of the messages of each mirrored topic and partition, as they were
    delivered. A record of one of the `transfers` is announced when its bytes are here.
    """

    blobs: list[BlobRow]
    records: list[RecordRow]
    sightings: list[SightingRow]
    dead_letters: list[DeadLetterRow]
    redrives: list[RedriveRow] = field(default_factory=list)
    losses: list[LossRow] = field(default_factory=list)
    progress: Mapping[PartitionKey, int] = field(default_factory=dict)
    origins: Mapping[PartitionKey, Sequence[OffsetRun]] = field(default_factory=dict)
    transfers: Sequence[TransferRow] = ()
    collection_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The new rows of a transaction; a repeated batch has none."""

    new_records: frozenset[UUID] = frozenset()
    new_sightings: int = 0
    duplicates: int = 0  # rows of the batch's records that the catalog, or the batch itself, had already
    new_dead_letters: int = 0
    newly_dropped: int = 0
    newly_damaged: int = 0

    def __add__(self, other: "CommitResult") -> "CommitResult":
        return CommitResult(
            self.new_records | other.new_records,
            self.new_sightings + other.new_sightings,
            self.duplicates + other.duplicates,
            self.new_dead_letters + other.new_dead_letters,
            self.newly_dropped + other.newly_dropped,
            self.newly_damaged + other.newly_damaged,
        )


@dataclass(frozen=True, slots=True)
class BlobLocation:
    """The location of a blob: in the store, or with `archived_at_us` in the archive."""

    digest: bytes
    size_bytes: int
    media_type: str
    store_key: str
    store_offset: int | None
    archived_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The digest of erased bytes, and the site and source from which they are kept out; any where these are empty."""

    digest: bytes
    site: str
    source_id: str

    def keeps_out(self, site: str, source_id: str) -> bool:
        """Return whether it applies to what this source sent."""
        return self.site in {"", site} and self.source_id in {"", source_id}


@dataclass(frozen=True, slots=True)
class KnownDigests:
    """What the catalog knows of some digests: the locations of those blobs that it has, and the tombstones."""

    blobs: Mapping[bytes, BlobLocation] = field(default_factory=dict)
    tombstones: Sequence[Tombstone] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A version's result for a record: its label, and the votes and errors by function name."""

    record_id: UUID
    label: str | None
    votes: dict[str, str]
    errors: dict[str, str]


SourceKey: TypeAlias = tuple[str, str] | bytes
"""Site and source of a message; the first KEY_BYTES of its key where these could not be read."""

KEY_BYTES = 128


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The good messages and the rejected ones, by source."""

    good: int
    bad: Mapping[SourceKey, int]
