"""Rows for the outbox, each of its own kind of content, because the topics are shared by all tests of a run."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Self
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, DeadLetterRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import dead_letter_id, event_id, record_id
from headrace.schemas.events import Kind
from headrace.store.catalog.outbox import Outbox
from headrace.streams.relay.loop import Relay
from headrace.streams.relay.topic_relay import Phase

LDOS, CLIPS, LETTERS = "ingested.ldos.v1", "ingested.clips.v1", "deadletters.v1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rows(count: int, *, sources: int = 3, kind: Kind = Kind.LDO, first: int = 0) -> tuple[RowBatch, list[UUID]]:
    """A batch of new records, and the event ids of their announcements in order."""
    blobs, records, sightings = [], [], []
    for sequence in range(first, first + count):
        digest = sha256(os.urandom(16)).digest()
        record = record_id(kind, digest.hex())
        source_id = f"camera-{sequence % sources}"
        blobs.append(
            BlobRow(
                digest=digest, size_bytes=200, media_type="application/json", store_key="packs/x.tar", store_offset=512
            )
        )
        records.append(
            RecordRow(
                record_id=record,
                kind=kind,
                digest=digest,
                site="here",
                source_id=source_id,
                captured_at_us=1_790_000_000_000_000 + sequence,
                sequence=sequence,
                media_type="application/json",
                size_bytes=200,
                traceparent=TRACEPARENT,
            )
        )
        sightings.append(
            SightingRow(
                topic="edge.ldos.v1",
                partition=0,
                offset=sequence,
                record_id=record,
                site="here",
                source_id=source_id,
                captured_at_us=1_790_000_000_000_000 + sequence,
                sequence=sequence,
            )
        )
    batch = RowBatch(blobs=blobs, records=records, sightings=sightings, dead_letters=[])
    return batch, [event_id(record.record_id) for record in records]


def dead_letters(count: int, value_bytes: int) -> tuple[RowBatch, list[UUID]]:
    letters = []
    for offset in range(count):
        value = os.urandom(16) + bytes(value_bytes - 16)
        letters.append(
            DeadLetterRow(
                dead_letter_id=dead_letter_id("edge.frames.v1", 0, offset, value),
                code="not_framed",
                reason="the value does not begin with 00",
                topic="edge.frames.v1",
                partition=0,
                offset=offset,
                message_timestamp_us=1_790_000_000_000_000,
                key=b"camera-1",
                value=value,
            )
        )
    batch = RowBatch(blobs=[], records=[], sightings=[], dead_letters=letters)
    return batch, [letter.dead_letter_id for letter in letters]


class AnnouncementReader:
    """What a `read_committed` reader finds on topics, from now on."""

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        self._consumer = Consumer(
            client_config(
                settings,
                group_id="test",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
            )
        )
        known = self._consumer.list_topics(timeout=10).topics
        places = [TopicPartition(topic, partition) for topic in topics for partition in known[topic].partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=10)[1]
        self._consumer.assign(places)
        self._partitions = len(places)
        self._ended: set[tuple[str, int]] = set()
        self.messages: list = []
        self._read(0, 30)

    async def read(self, count: int, seconds: float = 30) -> list[UUID]:
        """Wait for `count` messages, read on to the ends, and return the event ids of all that were ever read."""
        async with asyncio.timeout(seconds):
            await asyncio.to_thread(self._read, count, seconds)
        return self.event_ids

    @property
    def event_ids(self) -> list[UUID]:
        return [UUID(dict(message.headers())["ce_id"].decode()) for message in self.messages]

    def close(self) -> None:
        self._consumer.close()

    def _read(self, count: int, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            for message in self._consumer.consume(500, 0.1):
                if message.error() is None:
                    self.messages.append(message)
                    self._ended.discard((message.topic(), message.partition()))
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    self._ended.add((message.topic(), message.partition()))
            if len(self.messages) >= count and len(self._ended) == self._partitions:
                return


class Running:
    """A relay in a task."""

    def __init__(
        self, settings: Settings, outbox: Outbox, reached: Callable[[str], None] = lambda _point: None
    ) -> None:
        self.stop = asyncio.Event()
        self.relay = Relay(settings, outbox, now_us=lambda: time.time_ns() // 1000, reached=reached)
        self.task = asyncio.create_task(self.relay.run(self.stop))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.stop.set()
        await asyncio.wait([self.task], timeout=20)
        assert self.task.done()

    async def idle(self) -> None:
        await wait_until(lambda: self.task.done() or self.relay.phase is Phase.IDLE)


async def wait_until(condition, seconds: float = 30, every: float = 0.02) -> None:
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(every)
