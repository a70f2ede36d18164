"""An erasure between the claim of a redrive and its message: the erased bytes do not come back."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from headrace.batch.redrive import RedrivePublisher, RedriveRun
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, headers_of, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.codec import encode
from headrace.schemas.digest import dead_letter_id
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import DeadLetters, LetterFilters
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.worker.group_commit import commit_or_store_again
from tests.batch.batch_samples import CAPTURED_AT_US, Line, cid
from tests.commands import headrace

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

TOPIC = input_topic(Kind.CID).name


class PublisherAfterErasure(RedrivePublisher):
    """Publishes what was claimed, after its site was erased."""

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        headrace(self.settings, "erase", "--site", letters[0][0].site or "", "--yes")
        super().publish(letters)


def ends(settings: Settings) -> dict[tuple[str, int], int]:
    with reading_consumer(settings, "test-redrive") as consumer:
        return {key: end for key, (_, end) in offset_bounds(consumer, partitions_of(consumer, TOPIC)).items()}


def published_since(settings: Settings, starts: dict[tuple[str, int], int]) -> list[ConsumedMessage]:
    with reading_consumer(settings, "test-redrive") as consumer:
        bounds = offset_bounds(consumer, starts)
        messages = list(TopicReader(consumer, {key: (starts[key], end) for key, (_, end) in bounds.items()}))
    return [
        ConsumedMessage(
            message.topic() or "",
            message.partition() or 0,
            message.offset() or 0,
            CAPTURED_AT_US,
            message.key(),
            message.value(),
            tuple((name, value or b"") for name, value in headers_of(message) or ()),
        )
        for message in messages
    ]


async def test_a_redriven_message_whose_letter_was_erased_after_the_claim_stays_out(
    settings: Settings, blobs: Blobs, line: Line, sql: Any
) -> None:
    event = cid(uuid4().hex)
    value = encode(event)
    letter = dead_letter_id(TOPIC, 0, 10**9, value)
    await sql.execute(
        'insert into dead_letters (dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us,'
        " key, value, site, source_id) values ($1, 'unknown_schema', 'schema 7', $2, 0, $3, 0, $4, $5, $6, $7)",
        *(letter, TOPIC, 10**9, event.source_id.encode(), value, event.site, event.source_id),
    )
    starts = await asyncio.to_thread(ends, settings)
    async with DeadLetters.open(settings.postgres_dsn.get_secret_value()) as letters:
        run = RedriveRun(letters, blobs, now_us=time.time_ns() // 1000, attempts_max=3)
        result = await run.run(LetterFilters(), PublisherAfterErasure(settings, 1000))
    assert result.published == 1
    messages = await asyncio.to_thread(published_since, settings, starts)
    assert [message.value for message in messages] == [value], "it is on its way when it is erased"

    ingest = line.ingest()
    for _ in range(2):
        await commit_or_store_again(ingest, await ingest.store_bodies(await ingest.decode(Kind.CID, messages)))
    for table in ("records", "sightings", "blobs", "redrives"):
        assert await sql.fetchval(f"select count(*) from {table}") == 0, table
    [again] = await sql.fetch("select dead_letter_id, code, key, value, headers from dead_letters")
    assert (again["code"], again["key"], again["value"], again["headers"]) == ("erased", None, None, "[]")
    announced = await sql.fetch("select record_id, dead_letter_id from outbox")
    assert [tuple(row) for row in announced] == [(None, again["dead_letter_id"])], "the refusal, without its bytes"
