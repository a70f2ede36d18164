"""What a batch puts into the blob store, and the rows that it commits."""

import base64
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import orjson

from headrace.schemas.catalog_rows import (
    BlobRow,
    CommitResult,
    DeadLetterRow,
    LossRow,
    OffsetRun,
    RecordRow,
    RedriveRow,
    RowBatch,
    SightingRow,
)
from headrace.schemas.digest import dead_letter_id, record_id
from headrace.schemas.events import Cid, Clip, Frame, Kind, Ldo, Origin
from headrace.schemas.headers import losses_of
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import PartitionKey
from headrace.streams.core.delivery import ConsumedMessage, HeaderPairs
from headrace.streams.core.examine import AcceptedDelivery, DecodedBatch, RejectedDelivery


@dataclass(frozen=True, slots=True)
class StorePlan:
    """The bodies of a batch that must be stored.

    `alone` become objects of their own, `packed` go into one tar together, each digest once. `claimed` are promoted
    from staging, every one of them: one valid claim says nothing about another on the same digest.
    """

    alone: tuple[AcceptedDelivery, ...]
    packed: tuple[AcceptedDelivery, ...]
    claimed: tuple[AcceptedDelivery, ...]


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where a body was put."""

    store_key: str
    store_offset: int | None = None


def store_plan(accepted: Iterable[AcceptedDelivery], known: Container[str]) -> StorePlan:
    """Sort the bodies by how they are stored; `known` are the digests of blobs that the catalog has.

    A claim is verified even if its digest is known: the staged bytes may be different ones, and they are deleted
    afterwards.
    """
    alone: dict[str, AcceptedDelivery] = {}
    packed: dict[str, AcceptedDelivery] = {}
    claimed: list[AcceptedDelivery] = []
    for delivery in accepted:
        if delivery.body is None:
            claimed.append(delivery)
        elif delivery.digest in known:
            continue
        elif isinstance(delivery.event, Cid | Ldo) and delivery.size_bytes < PACKED_BYTES_MAX:
            packed.setdefault(delivery.digest, delivery)
        else:
            alone.setdefault(delivery.digest, delivery)
    return StorePlan(tuple(alone.values()), tuple(packed.values()), tuple(claimed))


def row_batch(
    batch: DecodedBatch, stored_at: Mapping[str, StoredAt], *, collection_epoch: int | None = None
) -> RowBatch:
    """Return the rows of a batch, in the order of its messages; `stored_at` says where each new body was put."""
    # Of several deliveries of one new body the last describes the blob; all of them say the same of it.
    new_blobs = {delivery.digest: delivery for delivery in batch.accepted if delivery.digest in stored_at}
    records = [_record(batch.kind, delivery) for delivery in batch.accepted]
    return RowBatch(
        blobs=[_blob(delivery, stored_at[digest]) for digest, delivery in new_blobs.items()],
        records=records,
        sightings=[sighting_row(delivery.message, row) for delivery, row in zip(batch.accepted, records, strict=True)],
        dead_letters=[_dead_letter(rejection) for rejection in batch.rejected],
        redrives=list(_redrives(batch)),
        losses=_losses(batch),
        progress=batch.progress,
        origins=origin_runs(batch.messages),
        collection_epoch=collection_epoch,
    )


def one_by_one(batch: DecodedBatch, rows: RowBatch) -> Iterator[tuple[DecodedBatch, RowBatch]]:
    """Yield each message of a batch as a batch of its own, in order, with its rows; `rows` are those of the batch.

    The last one has the progress of them all.
    """
    stored_at = {blob.digest.hex(): StoredAt(blob.store_key, blob.store_offset) for blob in rows.blobs}
    accepted_left, rejected_left = deque(batch.accepted), deque(batch.rejected)  # in the order of the messages
    for message in batch.messages:
        accepted = (accepted_left.popleft(),) if accepted_left and accepted_left[0].message is message else ()
        rejected = (rejected_left.popleft(),) if rejected_left and rejected_left[0].message is message else ()
        progress = batch.progress if message is batch.messages[-1] else {}
        single = DecodedBatch(batch.kind, (message,), accepted, rejected, progress)
        yield single, row_batch(single, stored_at, collection_epoch=rows.collection_epoch)


def merged(batches: Sequence[RowBatch]) -> RowBatch | None:
    """Return the rows of several batches as one transaction, in their order.

    Returns None if they were prepared under different collection epochs.
    """
    epochs = {batch.collection_epoch for batch in batches} - {None}
    if len(epochs) > 1:
        return None
    return RowBatch(
        blobs=[row for batch in batches for row in batch.blobs],
        records=[row for batch in batches for row in batch.records],
        sightings=[row for batch in batches for row in batch.sightings],
        dead_letters=[row for batch in batches for row in batch.dead_letters],
        redrives=[row for batch in batches for row in batch.redrives],
        losses=_highest(row for batch in batches for row in batch.losses),
        progress={key: at for batch in batches for key, at in batch.progress.items()},
        origins=_joined(batch.origins for batch in batches),
        collection_epoch=epochs.pop() if epochs else None,
    )


def results_of_each(batches: Iterable[RowBatch], result: CommitResult) -> Iterator[CommitResult]:
    """Yield the new records and duplicates of each batch that was committed with the others.

    What spools have newly lost counts for the first of them, because sources may report it in several.
    """
    left = set(result.new_records)
    dropped, damaged = result.newly_dropped, result.newly_damaged
    for batch in batches:
        new = left.intersection(row.record_id for row in batch.records)
        left -= new
        yield CommitResult(
            new_records=frozenset(new),
            duplicates=len(batch.records) - len(new),
            newly_dropped=dropped,
            newly_damaged=damaged,
        )
        dropped = damaged = 0


def origin_runs(messages: Iterable[ConsumedMessage]) -> dict[PartitionKey, list[OffsetRun]]:
    """Return the offsets that mirrored messages had at their sites, in the order of their delivery.

    A redriven message says nothing about what the mirror brings.
    """
    runs: dict[PartitionKey, list[OffsetRun]] = {}
    for message in messages:
        if message.origin is not None and message.redrive is None:
            topic, partition, offset = message.recorded_position
            _extend(runs.setdefault((topic, partition), []), (offset, offset))
    return runs


def _joined(batches: Iterable[Mapping[PartitionKey, Sequence[OffsetRun]]]) -> dict[PartitionKey, list[OffsetRun]]:
    joined: dict[PartitionKey, list[OffsetRun]] = {}
    for origins in batches:
        for key, runs in origins.items():
            for run in runs:
                _extend(joined.setdefault(key, []), run)
    return joined


def _extend(runs: list[OffsetRun], run: OffsetRun) -> None:
    if runs and runs[-1][1] + 1 == run[0]:
        runs[-1] = runs[-1][0], run[1]
    else:
        runs.append(run)


def headers_json(headers: HeaderPairs) -> bytes:
    """Return headers as a JSON array of [name, base64 value] pairs; U+0000 in a name is shown as U+FFFD."""
    return orjson.dumps(
        [[name.replace("\0", "\ufffd"), base64.b64encode(value).decode("ascii")] for name, value in headers]
    )


def _redrives(batch: DecodedBatch) -> Iterator[RedriveRow]:
    for delivery in batch.accepted:
        if (redrive := delivery.message.redrive) is not None:
            yield RedriveRow(
                dead_letter_id=redrive.dead_letter_id,
                attempt=redrive.attempt,
                record_id=record_id(batch.kind, delivery.digest),
            )
    for rejection in batch.rejected:
        if (redrive := rejection.message.redrive) is not None:
            yield RedriveRow(
                dead_letter_id=redrive.dead_letter_id,
                attempt=redrive.attempt,
                code=rejection.code,
                reason=rejection.reason,
            )


def _losses(batch: DecodedBatch) -> list[LossRow]:
    """Return the highest counts of each source and spool; a redriven message reports those of its first delivery."""
    reports: list[tuple[Origin, HeaderPairs]] = [
        (delivery.event, delivery.message.headers) for delivery in batch.accepted
    ]
    reports += [(rejected.origin, rejected.message.headers) for rejected in batch.rejected if rejected.origin]
    reported = [(origin, losses_of(headers)) for origin, headers in reports]
    return _highest(
        LossRow(
            site=origin.site,
            source_id=origin.source_id,
            spool=losses.spool,
            dropped=losses.dropped,
            damaged=losses.damaged,
        )
        for origin, losses in reported
        if losses is not None
    )


def _highest(reported: Iterable[LossRow]) -> list[LossRow]:
    """Return one row with the highest counts for each source and spool, sorted by them."""
    rows: dict[tuple[str, str, str], LossRow] = {}
    for row in reported:
        key = row.site, row.source_id, row.spool
        before = rows.get(key, row)
        rows[key] = replace(row, dropped=max(row.dropped, before.dropped), damaged=max(row.damaged, before.damaged))
    return [rows[key] for key in sorted(rows)]


def _blob(delivery: AcceptedDelivery, stored_at: StoredAt) -> BlobRow:
    return BlobRow(
        digest=bytes.fromhex(delivery.digest),
        size_bytes=delivery.size_bytes,
        media_type=delivery.media_type,
        store_key=stored_at.store_key,
        store_offset=stored_at.store_offset,
    )


def _record(kind: Kind, delivery: AcceptedDelivery) -> RecordRow:
    event = delivery.event
    columns: dict[str, Any]  # those that only this kind has
    match event:
        case Cid():
            columns = {"code": event.code}
        case Frame():
            columns = {"width": event.width, "height": event.height, "attributes": event.attributes}
        case Clip():
            columns = {"duration_us": event.duration_us, "about": event.about, "attributes": event.attributes}
        case Ldo():
            columns = {"ldo_id": event.ldo_id, "clip_sha256": event.clip_sha256}
        case _:
            assert_never(event)
    return RecordRow(
        record_id=record_id(kind, delivery.digest),
        kind=kind,
        digest=bytes.fromhex(delivery.digest),
        site=event.site,
        source_id=event.source_id,
        captured_at_us=event.captured_at_us,
        sequence=event.sequence,
        media_type=delivery.media_type,
        size_bytes=delivery.size_bytes,
        traceparent=delivery.traceparent,
        **columns,
    )


def sighting_row(message: ConsumedMessage, record: RecordRow) -> SightingRow:
    """Return the row of a message that delivers a record."""
    topic, partition, offset = message.recorded_position
    return SightingRow(
        topic=topic,
        partition=partition,
        offset=offset,
        mirrored_offset=message.offset if message.origin is not None and message.redrive is None else None,
        record_id=record.record_id,
        site=record.site,
        source_id=record.source_id,
        captured_at_us=record.captured_at_us,
        sequence=record.sequence,
    )


def _dead_letter(rejection: RejectedDelivery) -> DeadLetterRow:
    message = rejection.message
    kept = rejection.code is not RejectCode.ERASED
    topic, partition, offset = message.recorded_position
    return DeadLetterRow(
        dead_letter_id=dead_letter_id(topic, partition, offset, message.value),
        code=rejection.code,
        reason=rejection.reason,
        topic=topic,
        partition=partition,
        offset=offset,
        message_timestamp_us=message.timestamp_us,
        key=message.key if kept else None,
        value=message.value if kept else None,
        headers=headers_json(message.headers if kept else ()),
        site=rejection.origin.site if rejection.origin else None,
        source_id=rejection.origin.source_id if rejection.origin else None,
    )
