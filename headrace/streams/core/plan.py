"""What a batch puts into the store, and the rows that it commits."""

import base64
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from headrace.schemas.digest import dead_letter_id, record_id
from headrace.schemas.events import Cid, Clip, Frame, Kind, Ldo
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.store.catalog.rows import BlobRow, DeadLetterRow, RecordRow, RedriveRow, RowBatch, SightingRow
from headrace.streams.core.delivery import HeaderPairs
from headrace.streams.core.examine import AcceptedDelivery, RefusedDelivery


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Bodies that the store does not have yet.

    `alone` become objects of their own, `packed` go into one tar together, each digest once. `claimed` are promoted
    from staging, every one of them: one claim that holds says nothing about another on the same digest.
    """

    alone: tuple[AcceptedDelivery, ...]
    packed: tuple[AcceptedDelivery, ...]
    claimed: tuple[AcceptedDelivery, ...]


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where a body was put."""

    store_key: str
    store_offset: int | None = None


def plan(accepted: Iterable[AcceptedDelivery], known: Container[str]) -> StorePlan:
    """Sort the bodies by how they are stored; `known` are the digests of blobs that the catalog has.

    A claim is looked at even where its digest is known: what was staged may be something else, and it is deleted
    afterwards.
    """
    alone: dict[str, AcceptedDelivery] = {}
    packed: dict[str, AcceptedDelivery] = {}
    claimed: list[AcceptedDelivery] = []
    for one in accepted:
        if one.body is None:
            claimed.append(one)
        elif one.digest in known:
            continue
        elif isinstance(one.event, Cid | Ldo) and one.size_bytes < PACKED_BYTES_MAX:
            packed.setdefault(one.digest, one)
        else:
            alone.setdefault(one.digest, one)
    return StorePlan(tuple(alone.values()), tuple(packed.values()), tuple(claimed))


def batch_of(
    kind: Kind,
    examined: Sequence[AcceptedDelivery | RefusedDelivery],
    places: Mapping[str, StoredAt],
    *,
    generation: int | None = None,
) -> RowBatch:
    """Return the rows of a batch, in the order of its messages; `places` says where each new body was put."""
    batch = RowBatch(blobs=[], records=[], sightings=[], dead_letters=[], generation=generation)
    rows_of = {one.digest: one for one in examined if isinstance(one, AcceptedDelivery) and one.digest in places}
    batch.blobs.extend(_blob(one, places[digest]) for digest, one in rows_of.items())
    for one in examined:
        match one:
            case AcceptedDelivery():
                record = _record(kind, one)
                batch.records.append(record)
                batch.sightings.append(_sighting(one, record))
            case RefusedDelivery():
                batch.dead_letters.append(_dead_letter(one))
            case _:
                assert_never(one)
    batch.redrives.extend(_redrives(kind, examined))
    return batch


def _redrives(kind: Kind, examined: Iterable[AcceptedDelivery | RefusedDelivery]) -> Iterator[RedriveRow]:
    for one in examined:
        redrive = one.delivery.redrive
        if redrive is None:
            continue
        letter, attempt = redrive.dead_letter_id, redrive.attempt
        if isinstance(one, AcceptedDelivery):
            yield RedriveRow(dead_letter_id=letter, attempt=attempt, record_id=record_id(kind, one.digest))
        else:
            yield RedriveRow(dead_letter_id=letter, attempt=attempt, code=one.code, reason=one.reason)


def _blob(one: AcceptedDelivery, place: StoredAt) -> BlobRow:
    return BlobRow(
        digest=bytes.fromhex(one.digest),
        size_bytes=one.size_bytes,
        media_type=one.media_type,
        store_key=place.store_key,
        store_offset=place.store_offset,
    )


def _record(kind: Kind, one: AcceptedDelivery) -> RecordRow:
    event = one.event
    own: dict[str, Any]
    match event:
        case Cid():
            own = {"code": event.code}
        case Frame():
            own = {"width": event.width, "height": event.height, "attributes": event.attributes}
        case Clip():
            own = {"duration_us": event.duration_us, "about": event.about, "attributes": event.attributes}
        case Ldo():
            own = {"ldo_id": event.ldo_id, "clip_sha256": event.clip_sha256}
        case _:
            assert_never(event)
    return RecordRow(
        record_id=record_id(kind, one.digest),
        kind=kind,
        digest=bytes.fromhex(one.digest),
        site=event.site,
        source_id=event.source_id,
        captured_at_us=event.captured_at_us,
        sequence=event.sequence,
        media_type=one.media_type,
        size_bytes=one.size_bytes,
        traceparent=one.traceparent,
        **own,
    )


def _sighting(one: AcceptedDelivery, record: RecordRow) -> SightingRow:
    return SightingRow(
        topic=one.delivery.topic,
        partition=one.delivery.partition,
        offset=one.delivery.offset,
        record_id=record.record_id,
        site=record.site,
        source_id=record.source_id,
        captured_at_us=record.captured_at_us,
        sequence=record.sequence,
    )


def _dead_letter(one: RefusedDelivery) -> DeadLetterRow:
    message = one.delivery
    return DeadLetterRow(
        dead_letter_id=dead_letter_id(message.topic, message.partition, message.offset, message.value),
        code=one.code,
        reason=one.reason,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        message_timestamp_us=message.timestamp_us,
        key=message.key,
        value=message.value,
        headers=headers_json(message.headers),
        site=one.origin.site if one.origin else None,
        source_id=one.origin.source_id if one.origin else None,
    )


def headers_json(headers: HeaderPairs) -> bytes:
    """Return headers as a JSON array of [name, base64 value] pairs; U+0000 in a name is shown as U+FFFD."""
    return orjson.dumps(
        [[name.replace("\0", "\ufffd"), base64.b64encode(value).decode("ascii")] for name, value in headers]
    )
