"""A message published again is the message that it was, if the catalog knows of it and the bytes are its own."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from headrace.schemas.catalog_rows import Original
from headrace.schemas.codec import encode
from headrace.schemas.digest import dead_letter_id, record_id
from headrace.schemas.events import Kind
from headrace.schemas.headers import Redrive, redrive_headers
from headrace.schemas.topics import input_topic
from headrace.streams.core.delivery import ConsumedMessage, as_original, redrives_in
from headrace.streams.worker.group_commit import commit_or_store_again
from headrace.streams.worker.ingest import Ingest, StoredBatch
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry, RetryPolicy
from tests.streams.streams_fakes import FakeBlobs, FakeCatalog, FakeClaims, Journal
from tests.streams.streams_samples import cid, raw_delivery

TOPIC = input_topic(Kind.CID).name
VALUE = encode(cid("A"))
FIRST = raw_delivery(Kind.CID, VALUE, offset=5, partition=1)


def letter_of(first: ConsumedMessage) -> UUID:
    return dead_letter_id(first.topic, first.partition, first.offset, first.value)


def again(first: ConsumedMessage = FIRST, *, offset: int = 900, attempt: int = 1) -> ConsumedMessage:
    headers = redrive_headers((), Redrive(letter_of(first), attempt), (first.topic, first.partition, first.offset))
    return replace(first, offset=offset, headers=tuple(headers))


def known(first: ConsumedMessage = FIRST, attempt: int = 1) -> dict[tuple[UUID, int], Original]:
    original = Original(attempt, first.topic, first.partition, first.offset)
    return {(letter_of(first), attempt): original}


def test_a_known_one_stands_where_it_first_stood() -> None:
    taken = as_original(again(), known())
    assert (taken.partition, taken.offset) == (1, 5)
    assert taken.redrive == Redrive(letter_of(FIRST), 1)


def test_only_messages_that_say_so_are_asked_for() -> None:
    assert redrives_in([FIRST, again(), again(), replace(FIRST, headers=(("a", b""),))]) == [letter_of(FIRST)]


@pytest.mark.parametrize(
    ("delivery", "originals"),
    [
        (FIRST, known()),
        (again(), {}),
        (again(attempt=2), known()),
        (again(), {key: replace(origin, topic="edge.ldos.v1") for key, origin in known().items()}),
        (replace(again(), value=encode(cid("B"))), known()),
    ],
    ids=["says nothing", "unknown", "another attempt", "another topic", "other bytes"],
)
def test_anything_else_is_an_ordinary_message(
    delivery: ConsumedMessage, originals: dict[tuple[UUID, int], Original]
) -> None:
    assert as_original(delivery, originals) == delivery


def ingest_of(catalog: FakeCatalog, blobs: FakeBlobs) -> Ingest:
    ports = IngestPorts(blobs, FakeClaims(blobs), catalog)
    return Ingest(ports, retry=Retry(RetryPolicy(0.001, 0.001, 5.0)))


async def ingested(ingest: Ingest, message: ConsumedMessage) -> StoredBatch:
    stored = await ingest.store_bodies(await ingest.decode(Kind.CID, [message]))
    await ingest.commit(stored.rows)
    return stored


async def test_one_that_comes_twice_leaves_one_sighting_and_says_what_it_became() -> None:
    journal = Journal()
    blobs = FakeBlobs(journal)
    catalog = FakeCatalog(journal, blobs)
    catalog.redrives = known()
    ingest = ingest_of(catalog, blobs)
    for offset in (900, 901):
        stored = await ingested(ingest, again(offset=offset))
    ((place, _),) = catalog.sightings.items()
    assert place[:3] == (TOPIC, 1, 5)
    (row,) = stored.rows.redrives
    (record,) = catalog.records
    assert (row.dead_letter_id, row.attempt, row.record_id, row.code) == (letter_of(FIRST), 1, record, None)


async def test_one_that_is_refused_again_is_the_same_dead_letter() -> None:
    first = raw_delivery(Kind.CID, b"junk", offset=5, partition=1)
    journal = Journal()
    blobs = FakeBlobs(journal)
    catalog = FakeCatalog(journal, blobs)
    catalog.redrives = known(first)
    ingest = ingest_of(catalog, blobs)
    await ingested(ingest, first)
    stored = await ingested(ingest, again(first))
    assert list(catalog.dead_letters) == [letter_of(first)]
    (row,) = stored.rows.redrives
    assert (row.record_id, row.code) == (None, "not_framed")
    assert row.reason


async def test_a_batch_whose_objects_were_collected_is_put_again_and_then_committed() -> None:
    journal = Journal()
    blobs = FakeBlobs(journal)
    catalog = FakeCatalog(journal, blobs)
    catalog.collected = 2
    ingest = ingest_of(catalog, blobs)
    decoded = await ingest.decode(Kind.CID, [FIRST])
    stored = await ingest.store_bodies(decoded)
    blobs.objects.clear()
    catalog._blobs = None  # the fake would insist on the bytes at the first try
    committed = await asyncio.wait_for(commit_or_store_again(ingest, stored), 5)
    assert len(committed.result.new_records) == 1
    assert len(journal.of("put")) == 3
    assert len(blobs.objects) == 1
    assert record_id(Kind.CID, committed.batch.rows.records[0].digest.hex()) in catalog.records
