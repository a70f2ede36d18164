"""The same servers without Headrace: plain writes to the store, plain inserts of the same rows, plain reads."""

import asyncio
import time
from datetime import datetime
from itertools import count as numbers
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import TopicPartition

from headrace.bench.bodies import FRAME_BYTES
from headrace.bench.figures import rate
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, partitions_of, reading_consumer
from headrace.store.blobs.blob_store import Blobs
from headrace.store.postgres import connected, statements

PUTS_AT_ONCE = 16
INSERTED_ROWS_MAX = 20_000
_READ_AT_ONCE = 1000
_POLL_S = 0.02  # the last call waits this long in vain
_TABLES = ("blobs", "records", "sightings", "outbox")
_SQL = statements(str(Path(__file__).parent / "peers"))


def puts_per_s(settings: Settings, count: int) -> float:
    """Write bodies of 200 KB to the store, 16 at a time; returns the writes per second."""
    return asyncio.run(_puts_per_s(settings, count))


def inserts_per_s(settings: Settings, topic: str, since: datetime, *, batch_rows: int) -> float:
    """Copy the rows of a topic's messages since then into tables of the same shape with the same indexes.

    So many messages go into one transaction, with one COPY for each table; returns the messages per second.
    """
    return asyncio.run(_inserts_per_s(settings, topic, since, batch_rows))


def reads_per_s(settings: Settings, topic: str, count: int) -> float:
    """Read the last `count` messages of a topic with librdkafka and discard them; returns the messages per second."""
    with reading_consumer(settings, "headrace-bench", fetch_queue_backoff_ms=5) as consumer:
        bounds = offset_bounds(consumer, partitions_of(consumer, topic))
        assignment = []
        left = 0
        for key, (low, high) in bounds.items():
            start = max(low, high - count // len(bounds))
            assignment.append(TopicPartition(*key, start))
            left += high - start
        # Without a TopicReader, whose work for each message would count as librdkafka's.
        consumer.assign(assignment)
        began = ended = 0.0
        read = 0
        while read < left:
            messages = [message for message in consumer.consume(_READ_AT_ONCE, _POLL_S) if message.error() is None]
            if messages and not began:  # excludes the time to connect
                began, left = time.monotonic(), left - len(messages)
            elif messages:
                read, ended = read + len(messages), time.monotonic()
        return rate(read, ended - began)


async def _puts_per_s(settings: Settings, count: int) -> float:
    blobs = Blobs.from_settings(settings)
    body = Random(1).randbytes(FRAME_BYTES)  # noqa: S311 - incompressible, not secret
    left = numbers()
    prefix = f"bench/{time.time_ns()}"

    async def put() -> None:
        while (number := next(left)) < count:
            await blobs.put(f"{prefix}/{number:08d}", body)

    began = time.monotonic()
    await asyncio.gather(*(put() for _ in range(PUTS_AT_ONCE)))
    return rate(count, time.monotonic() - began)


async def _inserts_per_s(settings: Settings, topic: str, since: datetime, batch_rows: int) -> float:
    dsn = settings.postgres_dsn.get_secret_value()
    async with connected(
        dsn, statement_s_max=settings.postgres_statement_s_max, application="headrace bench"
    ) as connection:
        rows = await written_rows(connection, topic, since)
        began = time.monotonic()
        await copy_rows(connection, rows, batch_rows)
        took_s = time.monotonic() - began
        await connection.execute(_SQL["drop"])
        return rate(len(rows["sightings"]), took_s)


async def written_rows(connection: Any, topic: str, since: datetime) -> dict[str, list[Any]]:
    """Return what was written for a topic since then, by table, and make empty tables of the same shape."""
    sightings = await connection.fetch(_SQL["sightings"], since, topic, INSERTED_ROWS_MAX)
    ids = list(dict.fromkeys(row["record_id"] for row in sightings))
    records = await connection.fetch(_SQL["records"], ids)
    blobs = await connection.fetch(_SQL["blobs"], [row["digest"] for row in records])
    outbox = await connection.fetch(_SQL["outbox"], ids)
    await connection.execute(_SQL["tables"])
    return {"sightings": sightings, "records": records, "blobs": blobs, "outbox": outbox}


async def copy_rows(connection: Any, rows: dict[str, list[Any]], batch_rows: int) -> None:
    """Copy rows into the tables, so many messages in a transaction."""
    for start in range(0, len(rows["sightings"]), batch_rows):
        async with connection.transaction():
            for table in _TABLES:
                records = rows[table][start : start + batch_rows]
                columns = list(records[0].keys())
                await connection.copy_records_to_table(table, schema_name="bench", records=records, columns=columns)
