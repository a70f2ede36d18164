"""The values that the catalog's read side returns. Times are microseconds since 1970, UTC; digests hexadecimal."""

from dataclasses import dataclass, replace
from uuid import UUID

from headrace.schemas.events import Kind


def public_ldo_id(digest: str, captured_at_us: int) -> str:
    """Return an LDO's public id: `ldo_`, the first 12 digits of its digest, `_`, and its Unix seconds."""
    return f"ldo_{digest[:12]}_{captured_at_us // 1_000_000}"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record and the location of its bytes; `store_key` is None only if its blob's row was deleted.

    With `archived_at_us`, key and offset are those in the archive.
    """

    record_id: UUID
    kind: str
    digest: str
    site: str
    source_id: str
    captured_at_us: int
    sequence: int
    ingested_at_us: int
    media_type: str
    size_bytes: int
    store_key: str | None
    store_offset: int | None
    width: int | None
    height: int | None
    duration_us: int | None
    ldo_id: str | None
    code: str | None
    about: str | None
    attributes: str
    traceparent: str | None
    archived_at_us: int | None = None

    @property
    def public_id(self) -> str:
        """The public id."""
        return public_ldo_id(self.digest, self.captured_at_us) if self.kind == Kind.LDO else str(self.record_id)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One delivery of a record.

    Of a mirrored message, partition and offset are those at its site, and `mirrored_offset` is the one here.
    """

    topic: str
    partition: int
    offset: int
    index: int
    record_id: UUID
    site: str
    source_id: str
    captured_at_us: int
    sequence: int
    seen_at_us: int
    mirrored_offset: int | None = None


def as_sighted(record: StoredRecord, sighting: Sighting) -> StoredRecord:
    """Return a record that another source delivered first with what a reader's own sighting says of it."""
    return replace(
        record,
        site=sighting.site,
        source_id=sighting.source_id,
        captured_at_us=sighting.captured_at_us,
        sequence=sighting.sequence,
        ingested_at_us=max(record.ingested_at_us, sighting.seen_at_us),
        about=None,
        attributes="{}",
        traceparent=None,
    )


@dataclass(frozen=True, slots=True)
class RecordDetail:
    """One record with its sightings, oldest first; at most `SIGHTINGS_MAX` of them."""

    record: StoredRecord
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilters:
    """A filter of records; None matches everything. Times are ingestion times, `until_us` excluded.

    `scopes` are the reader's, 'site/source' or 'site/*'.
    """

    kinds: frozenset[Kind] | None = None
    site: str | None = None
    source_id: str | None = None
    ldo_id: str | None = None
    code: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    digest: str | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RecordList:
    """Records, newest first. `cursor` continues after the last of them; None at the end."""

    records: tuple[StoredRecord, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """The number of rows in the catalog; `dead_letters` is by code.

    `sightings` counts deliveries, also of records that were erased since, unless their source was.
    """

    records: dict[str, int]
    sightings: int
    dead_letters: dict[str, int]
    unpublished: int
