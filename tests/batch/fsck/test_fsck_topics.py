"""Announcements on the ingested topics are compared with the records, and none is published twice."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer

from headrace.batch.fsck.findings import FsckProblem
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import blob_key, event_id, record_id
from headrace.schemas.events import Ingested, Kind
from headrace.store.blobs.blob_store import Blobs
from tests.batch.batch_samples import Line, frame
from tests.batch.fsck.damage import fsck, problems

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


async def test_the_topics_show_what_the_outbox_does_not(settings: Settings, blobs: Blobs, line: Line, sql: Any) -> None:
    silent, out = frame(uuid4().hex), frame(uuid4().hex)
    await line.take(silent, out)
    record, announced, ghost = (record_id(Kind.FRAME, item.sha256) for item in (silent, out, frame(uuid4().hex)))
    # Created later than the topics begin: another test may have deleted their first messages.
    later = "created_at = now() + interval '1 hour'"
    await sql.execute(f"update outbox set published_at = now() - interval '1 minute', {later}")
    announce(settings, announced, out.sha256)
    announce(settings, ghost, "0" * 64)
    assert (await fsck(settings, blobs)).findings == []
    result = problems(await fsck(settings, blobs, topics=True))
    assert (FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT, str(record)) in result
    assert (FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD, str(ghost)) in result
    assert str(announced) not in {name for _, name in result}
    report = await fsck(settings, blobs, topics=True, repair=True)
    assert str(record) in {item.name for item, _ in report.healed}
    assert await sql.fetchval("select published_at is null from outbox where record_id = $1", record)
    assert str(ghost) in {item.name for item, _ in report.unhealed}


async def test_an_announcement_whose_row_was_lost_is_not_published_again(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    event = frame(uuid4().hex)
    await line.take(event)
    record = record_id(Kind.FRAME, event.sha256)
    announce(settings, record, event.sha256)
    await sql.execute("delete from outbox")
    report = await fsck(settings, blobs, repair=True)
    assert report.clean
    assert await sql.fetchval("select published_at is not null from outbox where record_id = $1", record)


def announce(settings: Settings, record: UUID, digest: str) -> None:
    event = Ingested(
        event_id=str(event_id(record)),
        record_id=str(record),
        kind="frame",
        digest=digest,
        source_id="camera-1",
        site="plant",
        captured_at_us=1,
        sequence=1,
        ingested_at_us=1,
        media_type="image/png",
        size_bytes=1,
        store_key=blob_key(digest),
        store_offset=None,
        width=1,
        height=1,
        duration_us=None,
        ldo_id=None,
        code=None,
        about=None,
        attributes=b"{}",
    )
    producer = Producer(client_config(settings))
    producer.produce("ingested.frames.v1", encode(event))
    assert producer.flush(30) == 0
