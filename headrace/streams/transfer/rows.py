"""The rows of a site's announcements: records whose bytes are still to be brought. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from headrace.schemas.catalog_rows import RecordRow, RowBatch, SightingRow, TransferRow
from headrace.schemas.codec import decode
from headrace.schemas.digest import is_digest, record_id
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.headers import traceparent_of
from headrace.schemas.mirrored import check_site
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.streams.core.batch_plan import sighting_row
from headrace.streams.core.delivery import ConsumedMessage, with_origin


@dataclass(frozen=True, slots=True)
class RefusedAnnouncement:
    """A mirrored announcement that is not taken, and why."""

    message: ConsumedMessage
    code: RejectCode
    reason: str


@dataclass(frozen=True, slots=True)
class AnnouncedRecord:
    """What one announcement adds to the catalog."""

    record: RecordRow
    sighting: SightingRow
    transfer: TransferRow


def announced(message: ConsumedMessage) -> AnnouncedRecord | RefusedAnnouncement:
    """Return what an announcement of a site adds; one that can never be taken is refused, without an exception."""
    message = with_origin(message)
    try:
        event = decode(message.value, Ingested)
        check_site(message.topic, event.site)
        kind = _checked_kind(event)
    except RejectedError as rejected:
        return RefusedAnnouncement(message, rejected.code, rejected.reason)
    record = RecordRow(
        record_id=record_id(kind, event.digest),
        kind=kind,
        digest=bytes.fromhex(event.digest),
        site=event.site,
        source_id=event.source_id,
        captured_at_us=event.captured_at_us,
        sequence=event.sequence,
        media_type=event.media_type,
        size_bytes=event.size_bytes,
        width=event.width,
        height=event.height,
        duration_us=event.duration_us,
        ldo_id=event.ldo_id,
        code=event.code,
        about=event.about,
        attributes=event.attributes,
        traceparent=traceparent_of(message.headers),
    )
    transfer = TransferRow(
        record_id=record.record_id,
        kind=kind,
        site=record.site,
        digest=record.digest,
        size_bytes=record.size_bytes,
        media_type=record.media_type,
        store_key=event.store_key,
        store_offset=event.store_offset,
    )
    return AnnouncedRecord(record, sighting_row(message, record), transfer)


def row_batch(records: Sequence[AnnouncedRecord]) -> RowBatch:
    """Return the rows of some announcements, in their order."""
    return RowBatch(
        blobs=[],
        records=[item.record for item in records],
        sightings=[item.sighting for item in records],
        dead_letters=[],
        transfers=[item.transfer for item in records],
    )


def split(
    outcomes: Iterable[AnnouncedRecord | RefusedAnnouncement],
) -> tuple[list[AnnouncedRecord], list[RefusedAnnouncement]]:
    """Return the records and the refusals, each in their order."""
    records: list[AnnouncedRecord] = []
    refused: list[RefusedAnnouncement] = []
    for outcome in outcomes:
        if isinstance(outcome, AnnouncedRecord):
            records.append(outcome)
        else:
            refused.append(outcome)
    return records, refused


def _checked_kind(event: Ingested) -> Kind:
    if event.kind not in set(Kind):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "kind is none of Headrace")
    if not is_digest(event.digest):
        raise RejectedError(RejectCode.MALFORMED_DIGEST, "digest is not 64 lower-case hexadecimal digits")
    if event.size_bytes < 0 or (event.store_offset or 0) < 0:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "size_bytes or store_offset is negative")
    kind = Kind(event.kind)
    # The id is computed from what is to be stored; another one would be announced for other bytes.
    if UUID(event.record_id) != record_id(kind, event.digest):
        raise RejectedError(RejectCode.DIGEST_MISMATCH, "record_id is not the one of kind and digest")
    return kind
