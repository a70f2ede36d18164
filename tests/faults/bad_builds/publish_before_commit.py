"""Publish before commit: the worker announces its new records itself, and writes the catalog's transaction after that.

The rows of the outbox are written as published, so without a fault each record is announced once. A crash between the
two leaves an announcement of a record that is not there; when the message comes again, its record is announced again.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from confluent_kafka import Producer

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import load_settings
from headrace.schemas.catalog_rows import BlobRow, CommitResult, RecordRow, RowBatch
from headrace.schemas.digest import event_id
from headrace.schemas.events import Ingested
from headrace.schemas.topics import ingested_topic
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Pending
from headrace.store.postgres import borrowed
from headrace.streams.relay.announcement import Announcement, announce

_FLUSH_S_MAX = 10


def apply() -> None:
    """Put the announcement in front of the transaction."""
    commit, insert_outbox = Catalog.commit, Catalog._insert_outbox

    async def announced_first(self: Catalog, batch: RowBatch) -> CommitResult:
        async with borrowed(self._pool, self._dsn) as connection:
            ids = [row.record_id for row in batch.records]
            known = await connection.fetch("select record_id from records where record_id = any($1::uuid[])", ids)
        new = {row.record_id: row for row in batch.records} | {row[0]: None for row in known}
        blobs = {row.digest: row for row in batch.blobs}
        await asyncio.to_thread(_publish, [_announcement(row, blobs[row.digest]) for row in new.values() if row])
        return await commit(self, batch)

    async def already_out(
        self: Catalog, connection: Any, batch: RowBatch, records: set[UUID], letters: set[UUID]
    ) -> bool:
        announces = await insert_outbox(self, connection, batch, records, letters)
        ids = [event_id(record) for record in records]
        await connection.execute("update outbox set published_at = now() where event_id = any($1::uuid[])", ids)
        return announces

    Catalog.commit = announced_first  # type: ignore[assignment, method-assign]
    Catalog._insert_outbox = already_out  # type: ignore[assignment, method-assign]


def _publish(announcements: Sequence[Announcement]) -> None:
    producer = Producer(client_config(load_settings(), acks="all", enable_idempotence=True))
    for announcement in announcements:
        producer.produce(announcement.topic, announcement.value, announcement.key, headers=list(announcement.headers))
    assert producer.flush(_FLUSH_S_MAX) == 0


def _announcement(row: RecordRow, blob: BlobRow) -> Announcement:
    event = Ingested(
        source_id=row.source_id,
        site=row.site,
        captured_at_us=row.captured_at_us,
        sequence=row.sequence,
        event_id=str(event_id(row.record_id)),
        record_id=str(row.record_id),
        kind=row.kind.value,
        digest=row.digest.hex(),
        ingested_at_us=time.time_ns() // 1000,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        store_key=blob.store_key,
        store_offset=blob.store_offset,
        width=row.width,
        height=row.height,
        duration_us=row.duration_us,
        ldo_id=row.ldo_id,
        code=row.code,
        about=row.about,
        attributes=row.attributes,
    )
    topic = ingested_topic(row.kind)
    return announce(Pending(0, event_id(row.record_id), topic.name, event, row.traceparent), topic.message_bytes_max)
